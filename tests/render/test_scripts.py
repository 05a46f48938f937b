"""Figures of prompts in scripts that no installed font has: as large and as readable as any other."""

from __future__ import annotations

import re

import numpy as np
import pytest

from support import chosen
from support import circuit_drawings as made
from support.faithfulness_cards import card, rows
from support.pictures import attribution, fisher, sequence
from tl_scopes import render
from tl_scopes.render.figures import letters
from tl_scopes.results.records import Candidate, Token

SCRIPTS = {
    "Hindi": " भारत की राजधानी नई दिल्ली है और यह बहुत सुन्दर विश्वविद्यालयों वाला शहर है",
    "Thai": " กรุงเทพมหานคร เป็น เมืองหลวง ของ ประเทศไทย และ เป็น เมือง ที่ ใหญ่ ที่สุด",
    "Chinese": " 中华人民共和国 的 首都 是 北京 , 而 最大 的 城市 是 上海",
    "emoji": " 🪿🪿🪿🪿🪿 is 👩\u200d🚀 or 🦀 than 🏴 or 😀😀 and 🥝 at 🛸",
    "Arabic": " مدينة القاهرة هي عاصمة جمهورية مصر العربية وهي أكبر مدينة في أفريقيا",
}
ESCAPED = re.compile(r"\\u[0-9a-f]{4}|\\U[0-9a-f]{8}|\\x[0-9a-f]{2}")


def tokens(text: str) -> tuple[str, ...]:
    return ("<bos>", *(f" {word}" for word in text.split()))


def scores(n: int, rows: int = 1) -> list[list[float]]:
    return [[20.0, *(1 + (t * (s + 3)) % 7 for t in range(1, n))] for s in range(rows)]


def one(text: str, sites=("embed",), **changes):
    words = tokens(text)
    top = tuple(Candidate(i, word, 0.3 / (i + 1)) for i, word in enumerate(words[1:9]))
    given = {"prediction": top, "target": Token(2, words[3] * 2), **changes}
    return attribution(words, scores(len(words), len(sites)), sites, **given)


def reads(text: str):
    return sequence(tokens(text), sites=("embed",))


def series(text: str):
    word = tokens(text)[1]
    prompt = ("<bos>", *(part for i in range(9) for part in (str(100 + i), word)))
    own = attribution(prompt, scores(len(prompt)), target=Token(3, word))
    return render.series(own, [100 + i for i in range(9)])


def spectrum(text: str):
    two = [fisher(), fisher(position=2)]
    return render.spectrum(two, labels=[text, text * 2])


def report(text: str, kind: str):
    methods = (text, *tokens(text)[1:4])
    return card(methods, rows=rows(methods, 4)).plot(kind)


FIGURES = {
    "bars": lambda x: render.figure(one(x)),
    "map": lambda x: render.figure(one(x, ("embed", "resid(3)", tokens(x)[1]))),
    "reads": lambda x: render.figure(reads(x)),
    "groups": lambda x: render.figure(one(x).group([(1, 3), (3, 5)])),
    "prediction": lambda x: render.prediction(one(x)),
    "compare": lambda x: render.compare([one(x), one(x, position=3)]),
    "compare map": lambda x: render.compare([one(x), one(x, position=3)], kind="map"),
    "series": series,
    "spectrum": spectrum,
    "heads": lambda x: render.circuit(made.components(tokens=tokens(x), target=one(x).target)),
    "components": lambda x: render.circuit(made.components(tokens=tokens(x)), over="tokens"),
    "head paths": lambda x: render.circuit(made.head_paths(tokens=tokens(x)), source=2),
    "head paths by token": lambda x: render.circuit(
        made.head_paths(tokens=tokens(x)), over="tokens"
    ),
    "flow": lambda x: render.circuit(made.flow(tokens=tokens(x))),
    "bands": lambda x: render.circuit(made.flow_path(tokens=tokens(x))),
    "verification": lambda x: render.circuit(made.verification(tokens=tokens(x), by="token")),
    "card": lambda x: report(x, "aopc"),
    "card lines": lambda x: report(x, "curves"),
    "card matrix": lambda x: report(x, "comparisons"),
}  # fmt: skip


@pytest.fixture
def only_dejavu(monkeypatch):
    """As on a machine without any other font."""
    monkeypatch.setattr(letters, "fonts", lambda: ["DejaVu Sans"])
    letters._has_glyph.cache_clear()
    yield
    letters._has_glyph.cache_clear()


def sizes(figure) -> np.ndarray:
    """Width and height of every panel, in inches, as drawn."""
    inches = figure.get_size_inches()
    return np.array([ax.get_position().size * inches for ax in figure.axes])


def in_latin(text: str) -> str:
    """As many words, of as many letters."""
    return " ".join(("abcdefghijklm" * 3)[: len(word)] for word in text.split())


@pytest.mark.parametrize(("name", "script"), chosen.each(FIGURES, SCRIPTS, times=2))
def test_a_script_without_a_font_keeps_its_figure(only_dejavu, amiss, name, script):
    text = SCRIPTS[script]
    figure, usual = (FIGURES[name](each) for each in (text, in_latin(text)))
    found, _ = (amiss(each, dpi=60) for each in (figure, usual))
    assert not found["cut"] and not found["overlapping"]
    assert (sizes(figure) > 0.7 * sizes(usual)).all(), (sizes(figure), sizes(usual))


def tick_labels(figure) -> list[str]:
    return [t.get_text() for t in figure.axes[0].get_xticklabels()]


def test_labels_are_whole_letters_and_whole_escapes(only_dejavu):
    found = tick_labels(render.figure(one(SCRIPTS["Hindi"])))
    capital = [r"·\u092d\u093e\u0930\u0924", r"·\u0915\u0940", r"·\u0930\u093e\u091c\u0927…"]
    assert found[1:4] == capital
    assert tick_labels(render.figure(one(SCRIPTS["emoji"])))[1] == r"·\U0001fabf\U0001fabf…"
    long = tick_labels(render.figure(one("an " + "internationalisation " * 5)))
    assert long[2] == "·internationa…"
    for text in SCRIPTS.values():
        for name in ("bars", "compare", "flow"):
            for label in tick_labels(FIGURES[name](text)):
                assert "\\" not in ESCAPED.sub("", label) and letters.cells(label) <= 26


def test_what_is_cut_is_cut_as_it_is_drawn(only_dejavu):
    assert letters.cut("a" * 9, 9) == "a" * 9 and letters.cut("a" * 9, 8) == "a" * 7 + "…"
    assert letters.cut("a" * 9, 8, start=True) == "…" + "a" * 7
    assert letters.cut("x中文y", 9) == r"x\u4e2d…" and letters.cut("x中文y", 9, True) == r"…\u6587y"
    assert letters.cut("e\u0301" * 9, 5) == "e\u0301" * 4 + "…"
    assert letters.broken("中" * 5 + " ab", 14) == [r"\u4e2d\u4e2d", r"\u4e2d\u4e2d", r"\u4e2d ab"]
    assert letters.cells("a\u2068b\u2069") == 2


def test_wide_letters_count_twice(monkeypatch):
    """Of a font that has them."""
    monkeypatch.setattr(letters, "_has_glyph", lambda char: True)
    assert letters.cells("中文ab") == 6 and letters.cut("中" * 9, 9) == "中" * 4 + "…"
    assert letters.broken("中" * 5, 6) == ["中" * 3, "中" * 2]
    assert letters.token("中" * 20) == "中" * 12 + "…"
