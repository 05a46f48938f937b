"""Graphs as files that other programs read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from tl_scopes.results.files import write_text

if TYPE_CHECKING:
    import networkx as nx


def node_link(graph: nx.DiGraph, path: str | Path | None) -> str:
    """`graph` as node-link JSON, which `networkx.node_link_graph` reads; written to `path` if given."""
    import networkx as nx

    text = json.dumps(nx.node_link_data(graph, edges="edges"))
    if path is not None:
        write_text(path, text)
    return text
