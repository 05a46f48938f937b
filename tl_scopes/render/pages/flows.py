"""Web pages of flows and head paths: circuitsvis's attention view, and its tokens for each head."""

from __future__ import annotations

from typing import Any

import numpy as np

from tl_scopes.render.colours import Scale, number
from tl_scopes.render.figures import circuits
from tl_scopes.render.figures.circuits import array, coloured
from tl_scopes.render.figures.grids import strongest
from tl_scopes.render.pages import page
from tl_scopes.render.pages.circuitsvis import Widget, tamed
from tl_scopes.render.pages.heatmap import heat_map
from tl_scopes.render.picture import Picture, Row, of_result
from tl_scopes.render.tokens import clipped, quoted, sentence, words
from tl_scopes.results.circuits import CircuitResult
from tl_scopes.results.escapes import isolated
from tl_scopes.results.flows import Flow, HeadPaths

MOST_HEADS = 24


def view(result: Flow | HeadPaths, id: str) -> tuple[str, str]:
    """Title and HTML of `result`; `id` must be unique in the document."""
    return _flow(result, id) if isinstance(result, Flow) else page.view(_heads(result), id)


def _flow(result: Flow, id: str) -> tuple[str, str]:
    circuits.check(result, norms=result.norms, signed=result.signed, scores=result.scores)
    n = result.position + 1
    inside = coloured(result, False)
    norms, signed = array(result.norms)[:n, :n], array(result.signed)[:n, :n]
    most = norms[:, inside].max() or 1.0
    whole = np.abs(array(result.scores)[:n])
    views = {
        "share": array(result.share)[:n, :n],
        "signed": signed / np.where(whole > 0, whole, 1.0),
        "norm": norms / most,
    }
    site, layer = words(result.site), words(result.layer)
    signs = Scale(1.0, signed=True)
    places = np.arange(n)
    rows = [
        _row(
            result, f"{q} {isolated(clipped(token, 24))}", q, views["share"][q], signs, places <= q
        )
        for q, token in enumerate(result.str_tokens[:n])
    ]
    beyond = f"; BOS {quoted(result.str_tokens[0], 24)} may exceed the scale of norms"
    picture = _picture(
        result,
        rows,
        site=site,
        each="position",
        units="share of the token’s influence, or of the largest norm",
        title=f"Through which positions tokens move {circuits.explained(result)}",
        subtitle=circuits.setting(result, f"{site} through {layer}"),
        scale_note=f"linear colours{'' if inside[0] else beyond}",
    )
    charts = _attention(
        [clipped(token, 24) for token in result.str_tokens[:n]], views, f"{id}-tokens"
    )
    hint = (
        f"A destination is a position at {layer} that influence passes through, a source the token "
        "it comes from. Point at a small chart to see it large, click to keep it; point at a cell "
        "of the large one for its number."
    )
    meanings = (
        "share: norm of a part over the sum of norms of all parts of its token",
        "signed: the part projected on its token’s whole gradient, over the size of the whole",
        f"norm: of a part, over the largest one, {number(float(most))} ({words(result.units)})",
    )
    reading = "<br>".join(sentence(meaning) for meaning in meanings)
    main = (
        f'<p class="tls-hint" hidden>{sentence(hint)}</p>'
        f'<div class="tls-flow" id="{charts.id}">{heat_map(picture)}</div>{page.legend(picture)}'
        f'<p class="tls-hint" style="margin-top:.8rem">{reading}</p>'
    )
    aside = page.aside(picture, _row(result, "", result.position, whole, Scale(1.0), places < n))
    told = f'document.querySelector("#{id} .tls-hint").hidden = false;'
    # A cell of a long prompt would become too narrow for its label.
    wide = f"max-width:{min(max(72.0, 24 + 1.5 * n), 88.0):g}rem"
    code = f"{charts.code}\n{told}"
    return picture.title, page.section(picture, id, main, aside, code, css="flow", style=wide)


def _attention(tokens: list[str], views: dict[str, np.ndarray], id: str) -> Widget:
    from circuitsvis.attention import attention_heads

    values = [[[float(f"{x:.4g}") for x in row] for row in view] for view in views.values()]
    # Tokens are drawn on a canvas, as they are: escaped ones would show their escapes.
    component = attention_heads(values, tokens, list(views), max_value=1.0, min_value=-1.0,
                           mask_upper_tri=False)  # fmt: skip
    return tamed(component.local_src, id)


def _heads(result: HeadPaths) -> Picture:
    """A series of coloured tokens for each head: heads have no destinations of their own here, so
    that nothing would fit an attention matrix."""
    circuits.check(result, norms=result.norms)
    n_heads = result.norms.shape[1]
    flat = array(result.norms).reshape(-1, len(result.str_tokens))
    largest = strongest(flat.sum(-1), MOST_HEADS)
    inside = np.zeros(flat.shape[1], dtype=bool)
    inside[: result.position + 1] = coloured(result, False)
    scale = Scale.fit(flat[largest][:, inside], "linear")
    rows = [
        _row(result, f"L{i // n_heads}H{i % n_heads}", result.position, flat[i], scale, inside)
        for i in largest
    ]
    some = f"the {len(rows)} of {len(flat)} heads with the largest norms"
    places = [f"from {words(result.site)}", some if len(rows) < len(flat) else ""]
    return _picture(
        result,
        rows,
        site=words(result.site),
        each="head",
        units=words(result.units),
        title=f"From which token, through which head, to {circuits.explained(result)}",
        subtitle=circuits.setting(result, *places),
        scale_note="linear colours, one scale for every head",
        first=int(np.argmax(flat[largest][:, inside].sum(-1))),
    )


def _row(
    result: CircuitResult, label: str, position: int, scores: np.ndarray, scale: Scale,
    inside: np.ndarray,
) -> Row:  # fmt: skip
    """`inside`: which tokens the row may reach, [pos]; they have colours."""
    return Row(
        label, position, (position, result.str_tokens[position]), scores, None, inside, scale,
        np.where(inside, scale(scores), 0.0), result.prediction, result.target, None,
    )  # fmt: skip


def _picture(result: Flow | HeadPaths, rows: list[Row], first: int = 0, **words: Any) -> Picture:
    """Rows that are heads, or positions that influence passes through: `words` say which."""
    return Picture(
        **of_result(result, rows),
        **words,
        kind="site",
        first=first,
        log=False,
        common=True,
        include_bos=isinstance(result, Flow) or bool(rows[0].included[0]),
        include_read=True,
    )
