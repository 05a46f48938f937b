"""The published evaluation of Jacobian Scopes (arXiv 2601.16407) on the bundled models, as a report.

`passages.jsonl` was written for this project and is under its licence: twenty passages in the manner of
LAMBADA, whose last word the rest of the passage tells, and is one token of both bundled models. They
are made so that small models get most of them right; how many they do says nothing about the models.
"""
