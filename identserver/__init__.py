"""Which version of the server is this?  The server around `lookup`: arguments, descriptors, signals, the log."""

__version__ = "1.1.0"
