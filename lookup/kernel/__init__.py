"""Who holds a connection, as the kernel of this host sees it?"""
