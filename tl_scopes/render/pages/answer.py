"""The page of an answer: point at a token, and what came before it is coloured by how much it moved it.

Numbers travel as half floats in base64, a row a read up to its read position, each over its own
size: they are right to 1/4096. Sums are made in the page.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tl_scopes.render.answer import Answer
from tl_scopes.render.colours import colour, hexed, number
from tl_scopes.render.pages.circuitsvis import chip, script_json
from tl_scopes.render.pages.heatmap import heat_map
from tl_scopes.render.pages.page import aside, asset, legend, section
from tl_scopes.render.picture import Row, about
from tl_scopes.render.tokens import escaped, sentence, visible
from tl_scopes.render.wording import counted
from tl_scopes.results.escapes import without_isolates

STRONGEST = 8
# Tokens that have a map narrow enough to stand beside what is predicted.
NARROW = 24
# Colours from one end of a scale to its middle.
STEPS = 255
# What the largest score of a row becomes: half floats below it are as exact down to 2e-9 of it, so that
# what BOS towers over keeps its digits.
_LARGEST = 2.0**15


def view(answer: Answer, id: str) -> tuple[str, str]:
    """Title and HTML of `answer`; `id` must be unique in the document."""
    picture = replace(answer.picture, rows=(answer.whole,), first=0)
    heat = heat_map(answer.overview) if answer.overview is not None else ""
    narrow = len(picture.tokens) <= NARROW
    main = (
        f'{_controls(answer, id)}<div class="tls-answer" role="group" aria-label="tokens">'
        f"{_turns(answer)}</div>{_status(answer)}{legend(picture)}{heat if narrow else ''}"
    )
    scripts = f"{asset('answer_numbers.js')}\n{asset('answer.js')}"
    code = f"const scope = {script_json(data(answer, id))};\n{scripts}"
    below = "" if narrow else heat
    return picture.title, section(
        picture, id, main, _aside(answer), code, css="answer", below=below
    )


def _status(answer: Answer) -> str:
    """What is coloured, in a sentence that follows what is chosen."""
    if answer.picture.kind == "site":
        return ""
    log_probs = [x for x in answer.chosen if x is not None]
    known = len(log_probs) == len(answer.chosen)
    likely = f": log-probability {number(sum(log_probs))} nats" if known else ""
    told = f"{_all(answer)}, {counted(len(answer.chosen), 'token')}{likely}."
    return f'<p class="tls-status" role="status">{told if answer.how else ""}</p>'


def _all(answer: Answer) -> str:
    return "All that is underlined" if answer.picture.answer is None else "The whole answer"


def _controls(answer: Answer, id: str) -> str:
    """How to point, and the choice of a site: what takes a script is hidden until it runs."""
    hint = ""
    if answer.picture.kind == "read":
        drag, shift = ", drag over several for their sum", ", with Shift they take in more"
        drag, shift = (drag, shift) if answer.how else ("", "")
        hint = (
            f'<p class="tls-hint" hidden>Point at an underlined token to see what moved it{drag}; a click '
            f"keeps it. Arrow keys move{shift}; Escape shows the whole.</p>"
        )
    if len(answer.sites) == 1:
        return hint
    return (
        f'{hint}<p class="tls-site"><label for="{id}-site">site</label> <input id="{id}-site" '
        f'type="range" min="0" max="{len(answer.sites) - 1}" value="0" hidden> '
        f"<output>{html.escape(answer.sites[0])}</output></p>"
    )


def _turns(answer: Answer) -> str:
    """Every token as one element, coloured for all reads together."""
    blocks = []
    for role, tokens in answer.turns:
        head = f'<b class="tls-role">{sentence(visible(role))}</b> ' if role else ""
        shown = "".join(_token(answer, t, answer.places[t]) for t in tokens)
        blocks.append(f'<div class="tls-turn">{head}<div>{shown}</div></div>')
    if answer.reads[-1]:
        row = answer.picture.rows[answer.reads[-1][0]]
        token = row.target or next(iter(row.prediction), None)
        text = f"→ {escaped(token.text)}" if token else "→"
        title = "what comes next: it is not in the text"
        blocks.append(f'<span class="tls-t tls-read tls-next" title="{title}">{text}</span>')
    return "".join(blocks)


def _token(answer: Answer, t: int, place: str) -> str:
    row, picture = answer.whole, answer.picture
    text = picture.tokens[t]
    kinds = ["tls-t"]
    kinds += ["tls-read"] if answer.reads[t] else []
    kinds += ["tls-template"] if t in answer.template else []
    kinds += ["tls-plain"] if not row.included[t] and t <= row.position else []
    kinds += ["tls-at"] if picture.kind == "site" and t == row.position else []
    told = html.escape(f"{number(float(row.scores[t]))} {picture.units}, {place}")
    return (
        f'<span class="{" ".join(kinds)}" style="{chip(float(row.colours[t]))}" title="{told}">'
        f"{escaped(text)}</span>{'<br>' if chr(10) in text else ''}"
    )


def _aside(answer: Answer) -> str:
    """What the whole is, and what moved it most; the script puts what is chosen in its place."""
    picture, row = answer.picture, answer.whole
    strongest = "".join(
        f'<li><bdi class="tls-token">{escaped(picture.tokens[t])}</bdi> '
        f'<span class="tls-prob"><b style="width:{100 * abs(row.colours[t]):.1f}%"></b></span> '
        f"<span>{number(float(row.scores[t]))}</span></li>"
        for t in row.strongest(STRONGEST)
    )
    side = f'<div class="tls-side"><h2>Moved most by</h2><ol>{strongest}</ol></div>'
    return side + aside(picture, row)


def data(answer: Answer, id: str) -> dict[str, object]:
    """What the page's script needs: tokens and sentences as plain text, scores packed."""
    picture = answer.picture
    ramp = [hexed(colour(i / STEPS))[1:] for i in range(-STEPS, STEPS + 1)]
    return {
        "id": id,
        "kind": picture.kind,
        "whole": _all(answer),
        "tokens": [visible(token) for token in picture.tokens],
        "places": answer.places,
        "units": picture.units,
        "sites": answer.sites,
        "how": answer.how,
        "log": picture.log,
        "common": answer.common,
        "bos": picture.has_bos and not picture.include_bos,
        "read": picture.include_read,
        "signed": answer.whole.scale.signed,
        "reads": answer.reads,
        "rows": [_row(answer, r) for r in range(len(picture.rows))],
        "scores": [packed(values, picture.rows) for values in answer.scores],
        "errors": None if answer.errors is None else [packed(x, picture.rows) for x in answer.errors],
        "ramp": "".join(ramp),
    }  # fmt: skip


def _row(answer: Answer, r: int) -> dict[str, object]:
    picture, row = answer.picture, answer.picture.rows[r]
    p, text = row.read
    after = picture.ids[p + 1] if not picture.spans and p + 1 < len(picture.ids) else None
    said = [without_isolates(line) for line in about(picture, replace(row, error=None))]
    return {
        "at": row.position,
        "read": [p, visible(text)],
        "chosen": answer.chosen[r],
        "target": visible(row.target.text) if row.target else None,
        "top": [[visible(c.text), c.probability, c.id == after] for c in row.prediction],
        "about": said,
    }


def packed(scores: np.ndarray, rows: Sequence[Row]) -> dict[str, object]:
    """Scores [read, pos] of one site up to each read position, with the size of each row."""
    parts = [scores[r, : row.position + 1] for r, row in enumerate(rows)]
    sizes = [float(np.abs(part).max()) / _LARGEST or 1.0 for part in parts]
    values = np.concatenate([part / size for part, size in zip(parts, sizes)])
    return {
        "sizes": sizes,
        "data": base64.b64encode(values.astype("<f2").tobytes()).decode("ascii"),
    }
