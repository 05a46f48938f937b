"""Circuits in real runs: what they are chosen from, who runs them, and what is kept of a long judgement.

Start at `judge`. `candidates` and `curves` tell which circuits are run, `node_runs` runs those of nodes and
`tl_scopes.circuits.wiring` those of edges; `store` keeps what is measured.
"""
