"""What do several modules of tests need?  Programs, hosts, people and connections, each in one place."""
