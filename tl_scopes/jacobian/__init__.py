"""`v^T J`: forward to what is read, and back to the sites.

Start at `answers.run`. `prompt_run` and `batches` say what is run together, `probes` and `forward` run it,
`backward` and `checkpointing` go back. `original`, `causality`, `slope` and `culprits` check a model on its
first use. `stability` compares precisions.
"""
