"""Small results that are made up, to be drawn, and what a picture of them says."""

from __future__ import annotations

import dataclasses
import io
import warnings
from html.parser import HTMLParser
from itertools import pairwise

import torch
from rich.console import Console

from support.infos import info, sequence_like
from tl_scopes import render
from tl_scopes.results.attribution import Attribution
from tl_scopes.results.records import Candidate, FisherInfo, Provenance, Token

HOSTILE = (
    "<bos>", "<script>alert(1)</script>", "</script>", "<img src=x onerror=alert(1)>", "<s>",
    "&amp;", "&lt", "\n", "\n\n", "\t", " lead", "trail ", "    ", "👍", "👨\u200d👩\u200d👧",
    "שלום",
    "\ud83d", "\x1b[31mred\x1b[0m", "\x9b2J", "[red]", "[/red]", ":smile:", "$x$", "\\frac{",
    "日本語", "\u202eevil", "\u0301", "", "\x00", "\u200d", "-->", "<!--", "`${1}`", "'\"",
    "CircuitsVis.render(", "\r\n", "\u3000", "\u2028", "http://tracker.test/a.png", "x" * 300,
)  # fmt: skip
PROVENANCE = Provenance(
    "tiny", "HookedTransformer", "float32", "cpu", "raw", "float32", {"torch": "2"}
)
PREDICTION = (Candidate(7, " Paris", 0.6), Candidate(8, "\n", 0.25), Candidate(9, " Rome", 1e-5))


def attribution(
    tokens=("<bos>", "The", " capital", " is"), scores=None, sites=("embed",), **changes
):
    n = len(tokens)
    if scores is None:
        scores = [[9.0, *(0.1 * (t + s) for t in range(1, n))] for s in range(len(sites))]
    made = Attribution(
        scores=torch.as_tensor(scores, dtype=torch.float32).reshape(len(sites), n),
        sites=tuple(sites),
        tokens=torch.arange(n),
        str_tokens=tuple(tokens),
        has_bos=True,
        position=n - 1,
        scope=info("semantic", {"target": " Paris"}),
        target=Token(7, " Paris"),
        units="logit per unit of residual",
        prediction=PREDICTION,
        fisher=None,
        standard_error=None,
        provenance=PROVENANCE,
    )
    return dataclasses.replace(made, **changes)


def sequence(tokens=("<bos>", "The", " capital", " is"), sites=("embed", "resid(1)")):
    n = len(tokens)
    scores = torch.rand(n - 1, len(sites), n, generator=torch.Generator().manual_seed(0)) + 0.1
    for r in range(n - 1):
        scores[r, :, r + 2 :] = 0
    return sequence_like(attribution(tokens, sites=sites), tuple(range(1, n)), scores)


def printed(result, width=80, **options):
    out = io.StringIO()
    render.terminal(result, console=Console(file=out, width=width), **options)
    return out.getvalue()


def all_words(result, **options) -> list[str]:
    """What a page, a terminal and a figure say (the last beside its axes), each in one line."""
    drawn = render.figure(result, **options)
    texts = Shape(render.html(result, **options)).text, printed(result, **options), said(drawn)
    return [" ".join(text.split()) for text in texts]


class Shape(HTMLParser):
    """The elements of a page, with the text of everything that is not script or style."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.text, self._in = [], [], "", ""
        self.feed(text)

    @property
    def addresses(self) -> list[str]:
        """What attributes refer to."""
        return [v for k, v in self.attributes if k in ("src", "href", "srcset", "data", "action")]

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self._in = tag

    def handle_endtag(self, tag):
        self._in = ""

    def handle_data(self, data):
        if self._in not in ("script", "style"):
            self.text += data


FISHER = FisherInfo((3.0, 1.0, 0.5), 6.0, 0.75, left_out=1e-4)
SERIES = ("<bos>", "1", "2", ",", "34", ",", "5", "6", ",")
SCORES = [[9, 3, 4, 7, 2, 0.5, 0, 1, 0.25]]


def fisher(**changes):
    return attribution(scope=info("fisher", {"rank": 3}), target=None, fisher=FISHER, **changes)


def numbers(**changes):
    return attribution(SERIES, SCORES, **changes)


def said(figure):
    """Title, subtitle and notes in one line: they are wrapped."""
    return " ".join(f"{figure.get_suptitle()} {figure.get_supxlabel()}".split())


def headings(figure):
    return [" ".join(ax.get_title(loc="left").split()) for ax in figure.axes]


def names(figure):
    return [" ".join(t.get_text().split()) for t in figure.axes[0].get_yticklabels()]


def caption(figure):
    return " ".join(figure.get_suptitle().split())


def labels(axis):
    return [text.get_text() for text in axis.get_ticklabels()]


def saved(figure, dpi=30, **options):
    """The figure, drawn into a file; a warning is an error (a letter without a glyph, a layout that does not fit)."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.savefig(io.BytesIO(), format="png", dpi=dpi, **options)
    return figure


def stand_apart(figure, panels, slack=1.0) -> list[int]:
    """How many labels the axes of `panels` have, none of which overlaps its neighbour by more than `slack`."""
    figure.draw_without_rendering()
    counts = []
    for ax in panels:
        for texts, side in ((ax.get_xticklabels(), 0), (ax.get_yticklabels(), 1)):
            boxes = [
                t.get_window_extent().get_points()[:, side].tolist() for t in texts if t.get_text()
            ]
            counts.append(len(boxes))
            assert all(high <= low + slack for (_, high), (low, _) in pairwise(sorted(boxes)))
    return counts
