"""Who are the users of this host?"""
