"""How does one process answer every connection of the listening sockets?"""
