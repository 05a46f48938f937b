"""The published evaluation of Jacobian Scopes (arXiv 2601.16407) on the bundled models, as a report.

`passages.jsonl` was written for this project and is under its licence: twenty passages in the manner of
LAMBADA, whose last word the rest of the passage tells, and is one token of both bundled models. They
are made so that small models get most of them right; how many they do says nothing about the models.

REPLICATION.md is of the evaluation as it was published, CONTROL.md (`control`) of the same claims under the control
of place. Its run goes on with the command in its second line, given the same `--out`.
"""
