"""Runs over whole data sets: resumable, over any number of processes."""
