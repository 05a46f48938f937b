"""Labels of nodes and readers, taken apart: of what kind they are, in which layer, which of their kind."""

from __future__ import annotations

import re
from dataclasses import dataclass

EMBED, READ, ARROW = "embed", "read", " -> "
_PARTS = {
    "attn_out": "attn", "mlp_out": "mlp", "block": "layer", "b_O": "bias", "b_out": "bias",
    "attn_in": "attn", "mlp_in": "mlp",
}  # fmt: skip
_KINDS = {"H": "head", "N": "neuron"}
_ONE = re.compile(r"L(\d+)([HN])(\d+)(?:\.([qkv]))?")
_WHOLE = re.compile(rf"(\d+)_({'|'.join(_PARTS)})")


@dataclass(frozen=True)
class Place:
    """`kind`: "embed", "head", "neuron", "attn", "mlp", "bias", "layer" or "read". `layer` and `index`:
    -1 where there is none. `port`: "q", "k" or "v" of a head's reader."""

    kind: str
    layer: int = -1
    index: int = -1
    port: str = ""

    @property
    def order(self) -> tuple[int, ...]:
        """Sorts places as the forward pass comes to them: an MLP after its block's attention."""
        last = self.kind in ("mlp", "neuron", "layer")
        return int(self.kind == READ), self.layer, int(last), self.index


def place_of(label: str) -> Place | None:
    """Where a node or a reader stands, by its label; None for a text that is no label.

    >>> place_of("L5H2.q")
    Place(kind='head', layer=5, index=2, port='q')
    """
    if label in (EMBED, READ):
        return Place(label)
    if found := _ONE.fullmatch(label):
        layer, letter, index, port = found.groups()
        return Place(_KINDS[letter], int(layer), int(index), port or "")
    if found := _WHOLE.fullmatch(label):
        return Place(_PARTS[found[2]], int(found[1]))
    return None
