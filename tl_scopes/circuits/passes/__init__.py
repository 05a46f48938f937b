"""One forward pass kept on the graph, and what is read of it: writes into the stream, parts of a gradient.

Start at `trace`. `stream` and `writes` tell who writes what, `parts` goes back to the source tokens, `jvp`
forward from them; `references` and `interventions` put other values in place of a pass's own.
"""
