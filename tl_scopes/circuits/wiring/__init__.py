"""Edges: who writes into the residual stream, who reads it, and what a cut between the two does.

Start at `blocks`. `anatomy` learns them from a run and `norms` finds what stands in front of them;
`effects` are edges to first order, `plan`, `patch` and `runs` cut them in real runs.
"""
