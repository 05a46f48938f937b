"""What the figures of circuits share: their words, labels of tokens, maps in signed colours."""

from __future__ import annotations

import numpy as np
from matplotlib.axis import Axis
from torch import Tensor

from tl_scopes.errors import RenderError
from tl_scopes.render import wording
from tl_scopes.render.figures import letters, style
from tl_scopes.render.tokens import quoted, words
from tl_scopes.results.circuits import CircuitResult
from tl_scopes.results.paired import PairedResult
from tl_scopes.results.records import effect_units


def explained(result: CircuitResult) -> str:
    """What the scope explains, as the end of a sentence."""
    return wording.explained(result.scope, result.target)


def setting(result: CircuitResult, *parts: str) -> str:
    """Scope, place and size of what is shown, after `parts`."""
    p, n = result.position, len(result.str_tokens)
    facts = [*parts, wording.method(result.scope), wording.read_at((p, result.str_tokens[p]))]
    unseen = f", the {n - p - 1} after the read position not drawn" if p < n - 1 else ""
    facts.append(f"{wording.size(n)}{unseen}")
    if result.frozen:
        facts.append(f"{' and '.join(words(x) for x in result.frozen)} held constant")
    facts.append(wording.ruled(result.provenance.rules))
    return wording.DOT.join(filter(None, facts))


def check(result: CircuitResult, **fields: Tensor | None) -> None:
    """Refuse what no picture can show. `fields`: the numbers that are about to be drawn."""
    kind, n = type(result).__name__, len(result.str_tokens)
    if not n or not 0 <= result.position < n:
        raise RenderError(
            f"this {kind} has {n} tokens and is read at {result.position}: nothing to draw; "
            "load or make it again"
        )
    for name, values in fields.items():
        if values is None:
            continue
        if not values.numel():
            raise RenderError(
                f"this {kind} holds nothing in {name} (shape {list(values.shape)}): "
                "nothing to draw; load or make it again"
            )
        if not values.isfinite().all():
            where = (~values.isfinite()).nonzero()[0].tolist()
            raise RenderError(
                f"{name} of this {kind} holds NaN or infinite numbers (first at {where}); only "
                "finite ones can be drawn: make it again, in float32 or wider"
            )


def array(values: Tensor) -> np.ndarray:
    return values.detach().double().cpu().numpy()


def effect_unit(result: CircuitResult | PairedResult) -> str:
    """Of what moves, where `units` are of that per unit of what moves it."""
    return words(effect_units(result.units))


def coloured(result: CircuitResult, include_bos: bool) -> np.ndarray:
    """Which tokens up to the read position take part in the colours, [pos]."""
    inside = np.ones(result.position + 1, dtype=bool)
    inside[0] = include_bos or not result.has_bos
    # With nothing but BOS before the read position there is nothing else to look at.
    return inside if inside.any() else ~inside


def bos_note(result: CircuitResult, inside: np.ndarray) -> str:
    return "" if inside[0] else f"BOS {quoted(result.str_tokens[0], 24)} not coloured"


def token_labels(result: CircuitResult) -> list[str]:
    """Of the tokens up to the read position."""
    return letters.tokens(result.str_tokens[: result.position + 1])


def label_tokens(axis: Axis, result: CircuitResult, inside: np.ndarray) -> None:
    """The tokens up to the read position, which stands out; those without colour are pale."""
    places = range(result.position + 1)
    style.label_tokens(axis, token_labels(result), places, result.position, inside)
