"""Web pages of flows and head paths: circuitsvis's attention view, and its tokens for each head."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np

from tl_scopes.render.colours import Scale, number
from tl_scopes.render.figures.canvas import array, check, coloured, explained, setting
from tl_scopes.render.figures.heads import strongest
from tl_scopes.render.pages import page
from tl_scopes.render.pages.circuitsvis import Widget, parts, script_json, widget
from tl_scopes.render.pages.heatmap import heat_map
from tl_scopes.render.picture import Picture, Row, source
from tl_scopes.render.tokens import clipped, quoted, sentence, words
from tl_scopes.results.circuits import CircuitResult
from tl_scopes.results.escapes import isolated
from tl_scopes.results.flows import Flow, HeadPaths

MOST_HEADS = 24
DARK = ".tls-flow canvas{filter:invert(.95) brightness(.87) hue-rotate(180deg)}"


@dataclass(frozen=True)
class _Picture(Picture):
    """Rows that are heads, or positions that influence passes through: `row` says which."""

    row: str = ""
    heading: str = ""
    lines: str = ""
    note: str = ""
    start: int = 0

    @property
    def first(self) -> int:
        return self.start

    @property
    def each(self) -> str:
        return self.row

    @property
    def title(self) -> str:
        return self.heading

    @property
    def subtitle(self) -> str:
        return self.lines

    @property
    def scale_note(self) -> str:
        return self.note


def view(result: Flow | HeadPaths, id: str) -> tuple[str, str]:
    """Title and HTML of `result`; `id` must be unique in the document."""
    body = _flow(result, id) if isinstance(result, Flow) else _heads(result, id)
    return f"What moves {explained(result)}", body


def _flow(result: Flow, id: str) -> str:
    check(result, norms=result.norms, signed=result.signed, scores=result.scores)
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
    rows = [
        _row(result, f"{q} {isolated(clipped(token, 24))}", q, views["share"][q], signs, q)
        for q, token in enumerate(result.str_tokens[:n])
    ]
    picture = _picture(
        result, rows, site,
        row="position",
        units="share of the token’s influence, or of the largest norm",
        heading=f"Through which positions tokens move {explained(result)}",
        lines=setting(result, f"{site} through {layer}"),
        note="linear colours" + (f"; BOS {quoted(result.str_tokens[0], 24)} may exceed the "
             "scale of norms" if not inside[0] else ""),
    )  # fmt: skip
    made = _attention(
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
    said = "<br>".join(sentence(meaning) for meaning in meanings)
    main = (
        f'<p class="tls-hint" hidden>{sentence(hint)}</p>'
        f'<div class="tls-flow" id="{made.id}">{heat_map(picture)}</div>{page.legend(picture)}'
        f'<p class="tls-hint" style="margin-top:.8rem">{said}</p>'
    )
    aside = page.aside(picture, _row(result, "", result.position, whole, Scale(1.0), n - 1))
    told = f'document.querySelector("#{id} .tls-hint").hidden = false;'
    script = f"{made.script}\n{made.call}\n{told}"
    # A cell of a long prompt would become too narrow for its label.
    wide = f"max-width:{min(max(72.0, 24 + 1.5 * n), 88.0):g}rem"
    return _shell(picture, id, main, aside, "", script, wide)


def _attention(tokens: list[str], views: dict[str, np.ndarray], id: str) -> Widget:
    from circuitsvis.attention import attention_heads

    values = [[[float(f"{x:.4g}") for x in row] for row in view] for view in views.values()]
    # Tokens are drawn on a canvas, as they are: escaped ones would show their escapes.
    made = attention_heads(values, tokens, list(views), max_value=1.0, min_value=-1.0,
                           mask_upper_tri=False)  # fmt: skip
    bundle, component, props = parts(made.local_src)
    call = f"CircuitsVis.render({json.dumps(id)}, CircuitsVis.{component}, {script_json(props)});"
    return Widget(id, bundle, call, "")


def _heads(result: HeadPaths, id: str) -> str:
    """A series of coloured tokens for each head: heads have no destinations of their own here, so
    that nothing would fit an attention matrix."""
    check(result, norms=result.norms)
    n_heads = result.norms.shape[1]
    flat = array(result.norms).reshape(-1, len(result.str_tokens))
    chosen = strongest(flat.sum(-1), MOST_HEADS)
    inside = np.zeros(flat.shape[1], dtype=bool)
    inside[: result.position + 1] = coloured(result, False)
    scale = Scale.fit(flat[chosen][:, inside], "linear")
    rows = [
        _row(
            result, f"L{i // n_heads}H{i % n_heads}", result.position, flat[i], scale, None, inside
        )
        for i in chosen
    ]
    some = f"the {len(rows)} of {len(flat)} heads with the largest norms"
    picture = _picture(
        result, rows, words(result.site),
        row="head",
        units=words(result.units),
        heading=f"From which token, through which head, to {explained(result)}",
        lines=setting(result, f"from {words(result.site)}", some if len(rows) < len(flat) else ""),
        note="linear colours, one scale for every head",
        start=int(np.argmax(flat[chosen][:, inside].sum(-1))),
    )  # fmt: skip
    made = widget(picture, f"{id}-tokens")
    main = (
        '<div class="tls-text tls-many"><p class="tls-hint" hidden>Point at a head to see it, click to '
        f'keep it.</p><div id="{made.id}">{made.fallback}</div></div>{page.legend(picture)}'
        f"{heat_map(picture)}"
    )
    script = (
        f"{made.script}\n{made.call}\n"
        f"const scope = {script_json(page.data(picture, id))};\n{page.asset('page.js')}"
    )
    return _shell(
        picture, id, main, page.aside(picture, rows[0]), page.marks(picture, made.id), script
    )


def _row(
    result: CircuitResult, label: str, position: int, scores: np.ndarray, scale: Scale,
    last: int | None, inside: np.ndarray | None = None,
) -> Row:  # fmt: skip
    """`last`: the last position that the row may reach; `inside`: those that have colours."""
    if inside is None:
        inside = np.arange(len(scores)) <= (len(scores) if last is None else last)
    return Row(
        label, position, (position, result.str_tokens[position]), scores, None, inside, scale,
        np.where(inside, scale(scores), 0.0), result.prediction, result.target, None,
    )  # fmt: skip


def _picture(
    result: CircuitResult, rows: list[Row], site: str, row: str, units: str, heading: str, lines: str,
    note: str, start: int = 0,
) -> _Picture:  # fmt: skip
    n = len(rows[0].scores)
    return _Picture(
        kind="site",
        site=site,
        rows=tuple(rows),
        tokens=result.str_tokens[:n],
        ids=tuple(result.tokens.tolist()[:n]),
        has_bos=result.has_bos,
        scope=result.scope,
        units=units,
        provenance=result.provenance,
        log=False,
        common=True,
        include_bos=isinstance(result, Flow) or bool(rows[0].included[0]),
        include_read=True,
        row=row,
        heading=heading,
        lines=lines,
        note=note,
        start=start,
    )


def _shell(
    picture: _Picture, id: str, main: str, aside: str, marks: str, script: str, style: str = ""
) -> str:
    return (
        f"<style>{page.style()}{page.asset('flow.css')}@media (prefers-color-scheme:dark)"
        f'{{body:not([data-jp-theme-light="true"],.vscode-light){{{DARK}}}}}'
        f'body[data-jp-theme-light="false"],body.vscode-dark{{{DARK}}}\n{marks}</style>\n'
        f'<section class="tls" id="{id}" style="{style}">\n<header><h1>{sentence(picture.title)}'
        f"</h1><p>{sentence(picture.subtitle)}</p></header>\n"
        f'<div class="tls-body"><div class="tls-main">{main}</div>\n<aside>{aside}</aside></div>\n'
        f"<footer>{sentence(source(picture))}</footer>\n"
        f'<div class="tls-tip" role="tooltip" hidden></div>\n</section>\n'
        f'<script type="module">\n{script}</script>'
    )
