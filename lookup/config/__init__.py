"""What does the configuration say about an owner, in oidentd's language?"""
