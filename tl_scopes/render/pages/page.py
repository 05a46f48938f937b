"""The web page, whole or as one notebook output: words, legend and numbers around the tokens."""

from __future__ import annotations

import base64
import html
import io
from importlib.resources import files
from typing import TYPE_CHECKING

from tl_scopes.render.colours import colour, fitting, hexed, number, percent
from tl_scopes.render.pages.circuitsvis import script_json, widget
from tl_scopes.render.pages.heatmap import heat_map
from tl_scopes.render.picture import Picture, Row, about, source
from tl_scopes.render.tokens import escaped, sentence, visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Whatever a token, a bundle or a later edit might try, the browser itself refuses to fetch.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'wasm-unsafe-eval'; "
    "style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
)
# Of the legend, in characters: of 24rem (page.css), or what a small telephone leaves of them.
LEGEND_WIDTH = 44


class Page(str):
    """The text of a page. A notebook that ends a cell with it shows this, not a megabyte."""

    def __repr__(self) -> str:
        return f"Page({len(self)} characters of HTML)"


def document(title: str, body: str) -> Page:
    """A whole document around `body`, in HTML; `title` is plain text."""
    return Page(
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n"
        "<style>html{color-scheme:light dark}body{margin:0;background:#fff}"
        "@media screen and (prefers-color-scheme:dark){body{background:#14161a}}</style>\n"
        f"</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def view(picture: Picture, id: str) -> tuple[str, str]:
    """Title and HTML of `picture`; `id` must be unique in the document."""
    inner = widget(picture, f"{id}-tokens")
    several = len(picture.rows) > 1
    pointing = f"Point at a {picture.each} to see it, click to keep it."
    hint = f'<p class="tls-hint" hidden>{pointing}</p>' if several else ""
    main = (
        f'<div class="tls-text{" tls-many" if several else ""}">{hint}'
        f'<div id="{inner.id}">{inner.fallback}</div></div>{legend(picture)}'
    )
    return picture.title, section(
        picture, id, main, aside(picture, picture.rows[0]),
        # The component, and the page's own script with what it needs.
        f"{inner.code}\nconst scope = {script_json(data(picture, id))};\n{asset('page.js')}",
        rules=marks(picture, inner.id),
        # Under both columns: the width of one would cut its last tokens off.
        below=heat_map(picture) if several else "",
    )  # fmt: skip


def section(
    picture: Picture, id: str, main: str, aside: str, code: str, rules: str = "", css: str = "",
    style: str = "", below: str = "",
) -> str:  # fmt: skip
    """What surrounds the drawing `main`, with what is predicted `aside` and an overview `below`.

    `code`: its script. `rules`: of a style sheet, beside those of every page and of the files `css`.
    """
    return (
        f"<style>{look(css)}\n{rules}</style>\n"
        f'<section class="tls" id="{id}" style="{style}">\n'
        f"<header><h1>{sentence(picture.title)}</h1><p>{sentence(picture.subtitle)}</p></header>\n"
        f'<div class="tls-body"><div class="tls-main">{main}</div>\n<aside>{aside}</aside></div>\n'
        f"{below}<footer>{sentence(source(picture))}</footer>\n"
        f'<div class="tls-tip" role="tooltip" hidden></div>\n</section>\n'
        f'<script type="module">\n{code}</script>'
    )


def svg(figure: Figure, alt: str) -> str:
    """A figure as an image, in which nothing runs and nothing is fetched, whatever a label says."""
    from matplotlib import rc_context

    written = io.BytesIO()
    with rc_context({"svg.fonttype": "path"}):
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    data = base64.b64encode(written.getvalue()).decode("ascii")
    return f'<img alt="{html.escape(alt)}" src="data:image/svg+xml;base64,{data}">'


def asset(name: str) -> str:
    return files("tl_scopes.render.pages").joinpath(name).read_text(encoding="utf-8")


def look(name: str = "") -> str:
    """Rules of every page, and of the sheet `name`, with those for the dark: where the reader asks for
    it, unless a notebook says what its theme is."""
    lit = 'body:not([data-jp-theme-light="true"],.vscode-light)'
    dim = 'body[data-jp-theme-light="false"],body.vscode-dark'
    rules = []
    for sheet in ("page", name) if name else ("page",):
        dark = asset(f"{sheet}_dark.css")
        rules += [
            asset(f"{sheet}.css"),
            f"@media screen and (prefers-color-scheme:dark){{{lit}{{{dark}}}}}",
        ]
        rules.append(f"{dim}{{{dark}}}")
    return "\n".join(rules)


def report_style() -> str:
    """What pages of tables and figures look like, as an element of a document."""
    return f"<style>{look('faithfulness')}</style>\n"


def marks(picture: Picture, id: str) -> str:
    """Rules that mark tokens by their place, for the marks that hold whatever row is shown."""
    token = f"#{id} .colored-tokens>span:nth-of-type"
    rules = []
    if picture.has_bos and not picture.include_bos:
        rules.append(f"{token}(1)>span{{border-style:dashed!important;opacity:.6}}")
    row = picture.rows[0]
    # Positions count from 0, nth-of-type from 1.
    rules.append(f"{token}({row.position + 1})>span{{box-shadow:0 0 0 2px #c2410c}}")
    rules.append(f'{token}({row.position + 1}){{--note:"read"}}')
    rules.append(f"{token}(n+{row.position + 2})>span{{opacity:.5}}")
    after = row.position + 1
    if row.target and after < len(picture.ids) and picture.ids[after] == row.target.id:
        rules.append(f'{token}({after + 1}){{--note:"target"}}')
    return "\n".join(rules)


def legend(picture: Picture) -> str:
    signed = picture.signed
    low = -1.0 if signed else 0.0
    shares = [i / 16 for i in range(17)]
    stops = ",".join(f"{hexed(colour(low + (1 - low) * x))} {100 * x:g}%" for x in shares)
    ticks = " ".join(
        f'<span style="left:{100 * at:.4g}%">{text}</span>'
        for at, text in _ticks(picture.rows[picture.first], signed)
    )
    return (
        f'<div class="tls-legend"><div class="tls-unit">{html.escape(picture.units)}</div>'
        f'<div class="tls-bar" style="background:linear-gradient(90deg,{stops})"></div>'
        f'<div class="tls-ticks">{ticks}</div><p>{sentence("; ".join(picture.notes()))}.</p></div>'
    )


def _ticks(row: Row, signed: bool) -> list[tuple[float, str]]:
    """Places on the bar, from 0 to 1, with what is written there."""
    if not row.included.any():
        return []
    places = [((at + 1) / 2 if signed else at, text) for at, text in row.scale.labels()]
    return fitting(places, LEGEND_WIDTH)


def aside(picture: Picture, row: Row) -> str:
    top = max((c.probability for c in row.prediction), default=0.0) or 1.0
    items, met = [], False
    for c in row.prediction:
        here = row.target is not None and c.id == row.target.id
        met = met or here
        items.append(
            f"<li{' class=tls-target' if here else ''}>"
            f'<bdi class="tls-token">{escaped(c.text)}</bdi> '
            f'<span class="tls-prob"><b style="width:{100 * c.probability / top:.1f}%"></b></span>'
            f"<span>{percent(c.probability)}</span></li>"
        )
    p, text = row.read
    after = f"after {p} “<bdi class=tls-token>{escaped(text)}</bdi>”"
    heading = f"<h2>Predicted next <small>{after}</small></h2>"
    parts = [f"{heading}<ol>{''.join(items)}</ol>"] if items else []
    if row.target is not None:
        token = f"<bdi class=tls-token>{escaped(row.target.text)}</bdi>"
        where = "" if met else ", not among those above"
        parts.append(f"<p><em class=tls-key>◆</em> explained: “{token}”{where}</p>")
    parts += [f"<p>{sentence(line)}</p>" for line in about(picture, row)]
    return "".join(parts)


def data(picture: Picture, id: str) -> dict[str, object]:
    """What the page's own script needs: numbers already written out, for tooltips and legend."""
    signed = picture.signed
    rows = [
        {
            "label": row.label,
            "read": row.position,
            "scores": [number(float(x)) for x in row.scores],
            "errors": None if row.error is None else [number(float(x)) for x in row.error],
            "ticks": _ticks(row, signed),
            "plain": [t for t, seen in enumerate(row.included) if not seen],
        }
        for row in picture.rows
    ]
    tokens = [visible(token) for token in picture.tokens]
    return {
        "id": id,
        "first": picture.first,
        "units": picture.units,
        "tokens": tokens,
        "places": picture.places(),
        "rows": rows,
    }
