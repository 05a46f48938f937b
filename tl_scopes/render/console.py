"""Coloured tokens in a terminal, and the same facts in plain text where there is no colour."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.style import Style
from rich.table import Table
from rich.text import Text

from tl_scopes.render import wording
from tl_scopes.render.colours import hexed, mix, number, percent
from tl_scopes.render.picture import Picture, Row, about, source
from tl_scopes.render.tokens import clipped, pieces, quoted, visible
from tl_scopes.results.base import Result
from tl_scopes.results.circuit import Circuit
from tl_scopes.results.circuits import CircuitResult
from tl_scopes.results.escapes import isolated, without_isolates
from tl_scopes.results.faithfulness import Faithfulness
from tl_scopes.results.paired import PairedResult
from tl_scopes.results.substitutions import Substitutions

# On a terminal the ground is unknown, black or white, so low scores are a grey that stands back
# from both and high ones a colour that stands out from both: blue above zero and red below, as in
# every other drawing. Below `FAINT` there is no ground.
LOW, POSITIVE, NEGATIVE = (130, 130, 130), (48, 130, 255), (255, 90, 75)
FAINT = 0.04
PREDICTED = "#7a8cf0"
# Rows of a table of a circuit: about what a terminal shows at once.
LARGEST = 12
BLOCKS = " ▁▂▃▄▅▆▇█"
EIGHTHS = ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")
SOFT, STRONG = Style(dim=True), Style(bold=True)


def show(picture: Picture, console: Console | None = None) -> None:
    """Print `picture`. Every line is built as text with styles; no markup is interpreted."""
    console = console or Console()
    width = max(min(console.width, 110), 40)
    row = picture.rows[0]
    lines = [Text(picture.title, STRONG), Text(picture.subtitle, SOFT), Text("")]
    if len(picture.rows) == 1:
        lines += [*_prompt(picture, row, width), Text(""), _legend(picture, row, console)]
        lines += [_notes(picture), Text(""), *_strongest(picture, row, width)]
    else:
        lines += [*_rows(picture, width), Text(f"scores in {picture.units}"), _notes(picture)]
    if len(picture.rows) == 1 or picture.kind == "site":
        lines += [Text(""), *_predicted(picture, row, width)]
    lines += [Text(""), Text(source(picture), SOFT)]
    for line in lines:
        console.print(line, overflow="fold", highlight=False, crop=False)


def show_table(result: CircuitResult, console: Console | None = None) -> None:
    """Print the largest entries of `result`, by the column that it names."""
    _show_largest(result, result.ranked_by, wording.title(result.scope, result.target), console)


def show_paired(result: PairedResult, console: Console | None = None) -> None:
    """Print the largest mean effects over pairs."""
    pairs = wording.counted(len(result.effects), "pair")
    title = f"What moves {wording.explained(result.scope, None)}, over {pairs}"
    _show_largest(result, result.ranked_by, title, console)


def show_substitutions(result: Substitutions, console: Console | None = None) -> None:
    """Print the strongest substitutions."""
    whose = wording.explained(result.scope, result.target)
    _show_largest(result, "effect", f"What another token would change of {whose}", console)


def show_circuit(result: Circuit, console: Console | None = None) -> None:
    """Print the strongest edges or nodes of a circuit."""
    title = f"A circuit of {len(result)} of {result.candidates} {result.of}"
    _show_largest(result, "effect", title, console)


def show_faithfulness(result: Faithfulness, console: Console | None = None) -> None:
    """Print what circuits of each size keep, beside random ones."""
    console = console or Console()
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    random, exact = result.random_f, result.exact
    names = [result.of, "share", "f", "95%", *["random"] * bool(len(random))]
    for name in [*names, *["exact"] * (exact is not None)]:
        table.add_column(name, justify="right")
    low, high = result.interval()
    for i, (size, share, f) in enumerate(zip(result.sizes, result.shares, result.f.tolist())):
        several = bool(low[i].isfinite())
        bounds = f"{low[i]:.3f} to {high[i]:.3f}" if several else ""
        row = [str(size), percent(share), f"{f:.3f}", bounds]
        row += [f"{random[:, i].mean():.3f}"] if len(random) else []
        row += [f"{result.exact_f[i]:.3f}"] if exact is not None else []
        table.add_row(*map(Text, row))
    console.print(
        Text(f"What circuits of {result.of} keep, over {len(result.clean)} pairs", STRONG)
    )
    console.print(table)
    if len(result.sizes) > 1:
        console.print(Text(f"CPR {number(result.cpr)}, CMD {number(result.cmd)}", SOFT))


def _show_largest(result: Result, by: str, title: str, console: Console | None) -> None:
    console, frame = console or Console(), result.to_frame()
    n = len(frame)
    frame = frame.dropna(axis="columns", how="all") if n else frame
    largest = frame[by].abs().sort_values(ascending=False, kind="stable").index
    frame = frame.loc[largest[:LARGEST]]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), title_justify="left")
    for column in frame.columns:
        numeric = frame[column].dtype.kind in "iuf"
        table.add_column(column.replace("_", " "), justify="right" if numeric else "left")
    for row in frame.itertuples(index=False):
        texts = [isolated(visible(x)) if isinstance(x, str) else number(x) for x in row]
        table.add_row(*map(Text, texts))
    console.print(Text(title, STRONG))
    console.print(table)
    console.print(Text(f"the {len(frame)} largest of {n} rows, by {by}", SOFT))


def _paint(value: float) -> Style:
    """Ground and ink for a colour value in [-1, 1]."""
    if abs(value) < FAINT:
        return Style()
    return Style(bgcolor=_css(value), color="#000000")


def _css(value: float) -> str:
    return hexed(mix(LOW, POSITIVE if value > 0 else NEGATIVE, abs(value)))


def _prompt(picture: Picture, row: Row, width: int) -> list[Text]:
    """The whole prompt, broken between tokens (inside one only where it is wider than a line)."""
    lines, used, after = [Text()], 0, row.position + 1
    for t, token in enumerate(picture.tokens):
        style = _paint(float(row.colours[t]))
        if t == row.position:
            style += Style(bold=True, underline=True)
        elif not row.included[t]:
            style += SOFT
        if t == after and row.target is not None and picture.ids[t] == row.target.id:
            style += Style(italic=True)
        chip = Text()
        for shown, mark in pieces(token):
            chip.append(shown, style + SOFT if mark and not style.bgcolor else style)
        if used and (used + chip.cell_len > width or t == picture.answer):
            lines, used = [*lines, Text()], 0
        lines[-1].append_text(chip)
        used += chip.cell_len
        if "\n" in token:
            lines, used = [*lines, Text()], 0
    return lines if lines[-1].plain else lines[:-1]


def _legend(picture: Picture, row: Row, console: Console) -> Text:
    if not row.included.any():
        return Text(f"scores in {picture.units}")
    labels = [text for _, text in row.scale.labels()]
    line = Text(f"{labels[0]} ")
    if console.color_system is None:
        line.append("to")
    else:
        low = row.scale.low
        for i in range(24):
            line.append(" ", _paint(low + (1 - low) * (i + 0.5) / 24))
    return line.append(f" {labels[-1]} {picture.units}")


def _notes(picture: Picture) -> Text:
    notes = picture.notes()
    if len(picture.rows) == 1:
        p, text = picture.rows[0].read
        group = ", its group" if picture.spans else ","
        notes.append(f"read position: {p} {quoted(text)}{group} underlined")
        notes += [] if picture.answer is None else [f"the {picture.follows} begins a line"]
    return Text("; ".join(notes) + ".", SOFT)


def _strongest(picture: Picture, row: Row, width: int) -> list[Text]:
    """The largest scores as a table: what is left of the picture without colours."""
    title, top = Text("Strongest tokens", STRONG), row.strongest(8)
    if not top:
        return [title, Text(f"  none: {picture.nothing}")]
    bars = []
    for t in top:
        error = "" if row.error is None else f" ± {number(float(row.error[t]))}"
        share, tail = float(row.colours[t]), f"{number(float(row.scores[t]))}{error}"
        bars.append(Bar(f"{t:>4}", picture.tokens[t], share, tail, _css(share)))
    return [title, *_bars(bars, width)]


def _predicted(picture: Picture, row: Row, width: int) -> list[Text]:
    p, text = row.read
    target = row.target.id if row.target else None
    shown = row.prediction
    top = max((c.probability for c in shown), default=0.0) or 1.0
    bars = [
        Bar(
            "   ◆" if c.id == target else "    ",
            c.text,
            c.probability / top,
            percent(c.probability),
        )
        for c in shown
    ]
    lines = [Text(f"Predicted next, after {p} {quoted(text)}", STRONG)] if shown else []
    lines += _bars(bars, width)
    if row.target is not None:
        where = "" if any(c.id == target for c in shown) else ", not among those above"
        lines.append(Text(f"   ◆ explained: {quoted(row.target.text)}{where}", SOFT))
    return lines + [Text(fact, SOFT) for fact in about(picture, row)]


class Bar(NamedTuple):
    """A line `head token bar tail`; `share`: how long the bar is, of the longest that there can be."""

    head: str
    token: str
    share: float
    tail: str
    colour: str = PREDICTED


def _bars(bars: Sequence[Bar], width: int) -> list[Text]:
    """Lines of `bars`. These are block characters: they stay in plain text."""
    names = [clipped(bar.token, 24) for bar in bars]
    name_width = max((cell_len(name) for name in names), default=0)
    tail_width = max((cell_len(bar.tail) for bar in bars), default=0)
    room = max(min(width - name_width - tail_width - 10, 30), 4)
    lines = []
    for bar, name in zip(bars, names):
        whole, rest = divmod(max(round(abs(bar.share) * room * 8), 1), 8)
        blocks = "█" * whole + EIGHTHS[rest]
        gap = " " * (name_width - cell_len(name) + 2)
        # The isolates count as letters: rich would break a line that has room.
        line = Text(f"{bar.head} {isolated(name)}{gap}", no_wrap=True)
        line.append(blocks, Style(color=bar.colour))
        lines.append(line.append(f"{' ' * (room - len(blocks))} {bar.tail:>{tail_width}}"))
    return lines


def _rows(picture: Picture, width: int) -> list[Text]:
    """One line a row: its scores as a strip of blocks, then its strongest token, then, where the
    rows are read positions, what is predicted there."""
    reads = picture.kind == "read"
    labels = [_place(*row.read, 14) if reads else _fit(row.label, 20) for row in picture.rows]
    label_width = max(map(_width, [*labels, "read at"]))
    side = 38 if reads else 24
    n = len(picture.tokens)
    group = -(-n // max(width - label_width - side - 4, 8))
    strip = max(-(-n // group), 6)
    cell = "a cell is a token" if group == 1 else f"a cell is {group} tokens, the largest shows"
    head = f"{'read at' if reads else 'site':<{label_width}}  {'tokens':<{strip}}  {'score':>8} "
    lines = [Text(head + (f"{'strongest':<12}  predicted" if reads else "strongest"), STRONG)]
    for label, row in zip(labels, picture.rows):
        line = Text(_pad(label, label_width) + "  ", no_wrap=True)
        for start in range(0, n, group):
            line.append(*_block(row, slice(start, start + group)))
        line.append(" " * (strip - -(-n // group) + 2))
        side_text = " " * 21
        for t in row.strongest(1):
            token = _place(t, picture.tokens[t], 12)
            side_text = f"{number(float(row.scores[t])):>8} {_pad(token, 12)}"
        line.append(side_text)
        if reads and row.prediction:
            best = row.prediction[0]
            line.append(f"  {isolated(_fit(visible(best.text), 9))} {percent(best.probability)}")
        line.rstrip()
        lines.append(line)
    blank = "blank: under 1/16 of the scale" + (", or after the read position" if reads else "")
    return [*lines, Text(f"tokens 0 to {n - 1}, {cell}; {blank}.", SOFT)]


def _block(row: Row, part: slice) -> tuple[str, Style]:
    values, included = row.colours[part], row.included[part]
    if not included.any():
        return (" " if part.start > row.position else "·"), SOFT
    value = float(values[np.argmax(np.abs(values))])
    level = round(abs(value) * 8)
    return BLOCKS[level], Style(color=_css(value)) if level else SOFT


def _pad(text: str, width: int) -> str:
    return text + " " * (width - _width(text))


def _width(text: str) -> int:
    return cell_len(without_isolates(text))


def _place(position: int, text: str, width: int) -> str:
    """A token with its position, cut to `width` cells."""
    return f"{position} {isolated(_fit(visible(text), width - len(str(position)) - 1))}"


def _fit(text: str, width: int) -> str:
    """Cut to `width` cells, of which a wide character takes two."""
    if cell_len(text) <= width:
        return text
    return set_cell_size(text, width - 1).rstrip() + "…"
