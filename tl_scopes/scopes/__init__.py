"""What is explained: the vectors `v` that a scope yields at a read position."""
