"""What can a person ask identd, apart from what clients ask it?"""
