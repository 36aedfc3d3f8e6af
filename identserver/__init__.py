"""Which version of the server is this?

The server is all that stands around `lookup`: arguments, descriptors, signals, the log.
"""

__version__ = "1.1.0"
