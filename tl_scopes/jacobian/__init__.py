"""`v^T J`: forward to what is read, and back to the sites."""
