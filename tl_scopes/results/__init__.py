"""Scores, labels and files: what calls return. No result knows a picture."""
