"""How fast is identd, and beside what?  Measurements that anyone can run."""
