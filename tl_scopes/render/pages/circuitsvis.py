"""circuitsvis, tamed: its component and its bundled script without its network references."""

from __future__ import annotations

import html
import json
from dataclasses import dataclass

import torch

from tl_scopes.errors import RenderError
from tl_scopes.render.colours import colour, hexed, ink, luminance, number
from tl_scopes.render.picture import Picture
from tl_scopes.render.tokens import escaped, sentence


@dataclass(frozen=True)
class Widget:
    """`script`: the bundle. `call`: what draws into the element `id`. `fallback`: the same tokens
    as plain markup, for readers that run no script; the component replaces it."""

    id: str
    script: str
    call: str
    fallback: str

    @property
    def code(self) -> str:
        return f"{self.script}\n{self.call}"


def widget(picture: Picture, id: str) -> Widget:
    """The coloured tokens: `colored_tokens` for one row, `colored_tokens_multi` for several."""
    from circuitsvis.tokens import colored_tokens, colored_tokens_multi

    tokens = [_inner(token) for token in picture.tokens]
    colours = [row.colours.tolist() for row in picture.rows]
    values = torch.tensor(colours, dtype=torch.float64, device="cpu")
    # Colour values instead of scores: the component's own scale goes wrong where no score is
    # positive, below 1e-6, and, for several rows, wherever a row exceeds the first one.
    if len(picture.rows) == 1:
        component = colored_tokens(tokens, values[0], min_value=-1.0, max_value=1.0)
    else:
        component = colored_tokens_multi(
            tokens, values.T, labels=[row.label for row in picture.rows]
        )
    ones = [1.0] * len(picture.rows)
    # Properties of the component that its Python function does not offer.
    bounds = {"positiveBounds": ones, "negativeBounds": [-x for x in ones]} if len(ones) > 1 else {}
    return tamed(component.local_src, id, _fallback(picture, tokens), **bounds)


def tamed(source: str, id: str, fallback: str = "", **more: object) -> Widget:
    """circuitsvis's `source` for the element `id`; `more`: properties beside those that it has."""
    bundle, component, properties = parts(source)
    arguments = f"CircuitsVis.{component}, {script_json({**properties, **more})}"
    call = f"CircuitsVis.render({json.dumps(id)}, {arguments});"
    return Widget(id, bundle, call, fallback)


def script_json(value: object) -> str:
    """JSON that is safe inside a script element, whatever the strings hold."""
    text = json.dumps(value, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _inner(token: str) -> str:
    """Markup for one token. The component sets it as HTML, and breaks the line once for each
    newline in it: one, inside a comment, is enough for any number of them."""
    return escaped(token) + ("<!--\n-->" if "\n" in token else "")


def parts(source: str) -> tuple[str, str, dict[str, object]]:
    """Take circuitsvis's local source apart: bundle, component name, properties.

    The element's random id separates them: neither the bundle nor the properties (JSON, on one
    line) can contain a line break followed by it.
    """
    try:
        made_id = source.split('"', 2)[1]
        before, _, after = source.partition(f'CircuitsVis.render(\n      "{made_id}",\n')
        name, _, rest = after.partition(",\n")
        props = json.loads(rest[: rest.rindex(")")])
        bundle = before[before.index('type="module">') + len('type="module">') :]
        component = name.strip().removeprefix("CircuitsVis.")
    except (ValueError, IndexError) as error:
        raise RenderError(
            "this circuitsvis writes its page in an unknown way; tl_scopes knows 1.43: "
            "pip install 'circuitsvis>=1.43.3,<2'"
        ) from error
    # A source map is one more file that a browser's tools would ask for.
    lines = [
        line for line in bundle.strip().splitlines() if not line.lstrip().startswith("//# source")
    ]
    return "\n".join(lines), component, props


def _fallback(picture: Picture, tokens: list[str]) -> str:
    """The row that is shown first. Its own colours of ink, for readers that drop the style sheet."""
    row, spans = picture.rows[picture.first], []
    label = f'<p class="tls-hint">{picture.each} {sentence(row.label)}</p>'
    places = zip(tokens, row.colours, row.scores, picture.places())
    for token, value, score, place in places:
        style = chip(float(value))
        told = html.escape(f"{number(float(score))} {picture.units}, {place}")
        line = "<br>" if "\n" in token else ""
        spans.append(f'<span title="{told}"><span style="{style}">{token}</span>{line}</span>')
    shown = f'<div class="colored-tokens">{"".join(spans)}</div>'
    return label + shown if len(picture.rows) > 1 else shown


def chip(value: float) -> str:
    """Ground and ink of a token with this colour value, on light pages and on dark ones."""
    paper = colour(value)
    turned = "#000" if luminance(paper) > 0.33 else "#fff"  # as in page.js
    on = hexed(ink(paper))
    return f"background-color:{hexed(paper)};color:{on};--on-light:{on};--on-dark:{turned}"
