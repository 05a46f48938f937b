"""What is explained: the vectors `v` that a scope yields at a read position.

`base`: what every scope has. `prediction`: semantic, logit difference, temperature, Fisher. `custom`: a
function of the logits, a direction. `fisher` and `eigen`: the linear algebra of the Fisher information.
`pinning`: a scope whose target is settled. Names of scopes on the command line: `baselines.named`.
"""
