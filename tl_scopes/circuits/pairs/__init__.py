"""Pairs of clean and corrupted prompts: where they come from, their roles, and effects averaged over them.

Start at `pairs`. `templates` makes them from sentences, `batch` runs those of one length together, `effects`
and `paths` give what single prompts' calls give, over pairs.
"""
