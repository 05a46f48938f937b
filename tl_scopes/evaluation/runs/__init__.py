"""Runs over whole data sets: resumable, over any number of processes.

Start at `run`. `units` splits the prompts, `parts` keeps what is finished, `manifest` and `outputs` tell
whether a folder is of the same run, `processes` and `pulse` keep several processes together.
"""
