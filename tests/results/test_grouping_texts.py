"""Groups by the prompt's text: whole characters, sentences, lines, and spans that are given as texts."""

from __future__ import annotations

import functools
import subprocess
import sys
import time
from itertools import pairwise
from typing import Any

import pytest
import regex
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import tl_scopes as ts
from support import chosen, real_models
from support.pictures import attribution, sequence
from support.sentencepieces import BUNDLED, sentencepiece
from tl_scopes.adapter import vocabulary
from tl_scopes.errors import PositionError, ScopeParameterError
from tl_scopes.results.attribution import Attribution
from tl_scopes.results.characters import data_of, shown, together, wholes

ENGLAND = "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f"
FAMILY, THUMB, HEART = "👨\u200d👩\u200d👧", "👍🏽", "❤\ufe0f"
WORDS = {
    "日本": {"gemma-3-270m": ["日本"], "smollm2-135m-instruct": ["日", "本"]},
    f"I {HEART} it": ["I", f" {HEART}", " it"],
    "한국어": ["한국어"],
    "🪿 is": ["🪿", " is"],
    f"go {ENGLAND} go": ["go", f" {ENGLAND}", " go"],
    f"{THUMB}, {FAMILY}": [THUMB, ",", f" {FAMILY}"],
    "e\u0301te\u0301 क्षि है": ["e\u0301te\u0301", " क्षि", " है"],
    "🇩🇪🇫🇷": ["🇩🇪", "🇫🇷"],
    "\u1112\u1161\u11ab": ["\u1112\u1161\u11ab"],
    "Eiffel": ["Eiffel"],
    "русский": ["русский"],
    "see https://a.org": ["see", " https", "://", "a", ".", "org"],
}


@functools.cache
def tokenizer(name: str) -> Any:
    return real_models.shared(name).tokenizer if name in BUNDLED else sentencepiece(name)


def tokenised(name: str, text: str) -> tuple[Attribution, str]:
    """A result of that prompt, as a model with that tokenizer would have it, and the tokens decoded."""
    read = tokenizer(name)
    ids = [read.bos_token_id, *read(text, add_special_tokens=False)["input_ids"]]
    decoded = read.decode(ids[1:], clean_up_tokenization_spaces=False)
    return attribution(vocabulary.texts(read, ids)), decoded


@pytest.mark.real
@pytest.mark.parametrize("name", BUNDLED)
@pytest.mark.parametrize("text", WORDS)
def test_words_hold_whole_characters(name, text):
    wanted = WORDS[text]
    found = tokenised(name, text)[0].group()
    assert [*found.str_tokens[1:]] == (wanted[name] if isinstance(wanted, dict) else wanted)


@pytest.mark.real
@pytest.mark.parametrize(("text", "name"), chosen.each(list(WORDS)[5:7], BUNDLED))
def test_a_model_s_own_result_has_these_tokens(name, text):
    found = ts.attribute(real_models.shared(name), text, ts.SemanticScope())
    made, decoded = tokenised(name, text)
    assert found.str_tokens[1:] == made.str_tokens[1:] and decoded == text
    assert found.group().str_tokens[1:] == made.group().str_tokens[1:]


PARTS = [
    *("the ", " cat", "\n", "\r\n", ". ", "?! ", "don't", "  ", "\t", "42", "x_y", "<0xE6>", "<s>"),
    *("日本語。", "한국어", "\u1112\u1161", "สวัสดี", "क्षि ", "می\u200cخواهم", "עברית", "и\u0306"),
    *(HEART, THUMB, FAMILY, ENGLAND, "🇩🇪🇫🇷", "🪿", "1\ufe0f\u20e3", "\ufe0f", "\u200d", "\u0301"),
]  # fmt: skip
TEXTS = st.one_of(
    st.lists(st.sampled_from(PARTS), min_size=1, max_size=8).map("".join),
    st.text(st.characters(codec="utf-8", exclude_characters="▁"), min_size=1, max_size=12),
)


@pytest.mark.real
@pytest.mark.parametrize("name", [*BUNDLED, "gemma", "legacy", "llama"])
@settings(max_examples=60)
@given(TEXTS)
def test_groups_join_to_the_prompt_and_part_no_character(name, text):
    if name not in BUNDLED:  # which know few letters
        text = regex.sub(r"[^Tthecapitlofrns 日本🪿\n]", "", text) or "is"
    found, decoded = tokenised(name, text)
    assume(decoded == text)  # SmolLM2 has no token for some bytes, and leaves them out
    added = " " if name == "legacy" or (name == "llama" and text[0] != " ") else ""
    for by in ("word", "sentence", "line", []):
        groups = found.group(by)
        texts = groups.str_tokens[1:]
        joined = "".join(texts)
        assert joined == added + text
        edges = {0, *(match.end() for match in regex.finditer(r"\X", joined))}
        at = 0
        for part in texts:
            at += len(part)
            assert at in edges
        assert groups.spans[0] == (0, 1) and groups.spans[-1][1] == len(found.str_tokens)


@given(st.binary(max_size=40), st.data())
def test_any_bytes_in_any_pieces_come_back(data, draw):
    cuts = sorted(draw.draw(st.lists(st.integers(0, len(data)), max_size=6)))
    texts = [shown(data[a:b]) for a, b in pairwise([0, *cuts, len(data)])]
    assert together(texts) == shown(data)
    if b"<0x" not in data:
        assert [data_of(text) for text in texts] == [
            data[a:b] for a, b in pairwise([0, *cuts, len(data)])
        ]
    text, runs, starts = wholes(texts)
    assert text == shown(data) and starts == sorted(starts)
    assert [t for run in runs for t in range(*run)] == [*range(len(texts))]


@pytest.mark.real
def test_a_saved_result_groups_without_its_model(tmp_path):
    found = ts.attribute(
        real_models.shared("smollm2-135m-instruct"), f"日本 {ENGLAND}", ts.SemanticScope()
    )
    again = Attribution.load(found.save(tmp_path / "found"))
    assert again.group().str_tokens == ("<|im_start|>", "日", "本", f" {ENGLAND}")
    saved = Attribution.load(again.group().save(tmp_path / "groups"))
    assert saved.str_tokens == again.group().str_tokens and saved.spans == again.group().spans


def test_results_of_before_bytes_were_kept_still_group(tmp_path):
    older = attribution(("<bos>", "I", " \ufffd", "\ufffd", "\ufffd", "\ufe0f", " it"))
    again = Attribution.load(older.save(tmp_path / "older"))
    assert again.group().str_tokens == ("<bos>", "I", " \ufffd\ufffd\ufffd\ufe0f", " it")


TOKENS = (
    *("<bos>", "The", " Eiffel", " Tow", "er", " is", " in", " Paris", ".", " The", " tower", " is"),
    *(" <0xF0><0x9F>", "<0x97>", "<0xBC>", ".\n", "So", "?"),
)  # fmt: skip
PROMPT = "The Eiffel Tower is in Paris. The tower is 🗼.\nSo?"


def named(by: Any) -> list[str]:
    """The groups that hold several tokens."""
    found = attribution(TOKENS).group(by)
    return [text for text, (a, b) in zip(found.str_tokens, found.spans) if b > a + 1]


@pytest.mark.parametrize(
    ("by", "wanted"),
    [
        (["Eiffel Tower"], [" Eiffel Tower", " 🗼"]),
        ([" Eiffel Tower", "in Paris"], [" Eiffel Tower", " in Paris", " 🗼"]),
        (["iffel Towe"], [" Eiffel Tower", " 🗼"]),
        ([(PROMPT, 4, 16)], [" Eiffel Tower", " 🗼"]),
        ([(PROMPT, 3, 16), (5, 8)], [" Eiffel Tower", " is in Paris", " 🗼"]),
        ([("tower is 🗼", 6, 8), (9, 11)], [" The tower", " 🗼"]),
        (["🗼.\n"], [" 🗼.\n"]),
        (["🗼"], [" 🗼"]),
        ([(12, 15)], [" 🗼"]),
        ([], [" 🗼"]),
        ("sentence", ["The Eiffel Tower is in Paris.", " The tower is 🗼.\n", "So?"]),
        ("line", [PROMPT[:-3], "So?"]),
    ],
)
def test_spans_are_given_as_texts_characters_or_tokens(by, wanted):
    assert named(by) == wanted


def test_sequences_take_the_same():
    grouped = sequence().group(["The capital"])
    assert grouped.str_tokens == ("<bos>", "The capital", " is")


@pytest.mark.parametrize(
    ("by", "error", "says"),
    [
        ("Eiffel", ScopeParameterError, r'by is \'Eiffel\'; allowed: "word", "sentence", "line"'),
        (["Rome"], ScopeParameterError, "'Rome' does not stand in the prompt, which is 'The Eiffel"),
        (["The"], ScopeParameterError, r"'The' stands in the prompt more than once.*\(' Paris\. The"),
        ([""], ScopeParameterError, "by is"),
        ([("The", 0)], ScopeParameterError, "by is"),
        ([("The", 0, 1, 2)], ScopeParameterError, "by is"),
        ([(PROMPT, 0.5, 2)], ScopeParameterError, "by is"),
        ([(PROMPT, 4, 4)], PositionError, r"\(4, 4\) is not a range of characters"),
        ([(PROMPT, 4, 99)], PositionError, "0 <= start < end <= 49"),
        ([(PROMPT, -3, -1)], PositionError, "0 <= start < end"),
        (["Towe", "er is in"], ScopeParameterError, "overlap"),
        (["Eiffel", (2, 4)], ScopeParameterError, r"'Eiffel' at \(2, 3\) and \(2, 4\) overlap"),
        ([(12, 14)], ScopeParameterError, r"parts a character, whose tokens are \(12, 15\)"),
        ([(13, 15)], ScopeParameterError, "take all of them or none"),
        ([(15, 99)], PositionError, r"span \(15, 99\) is not a range of tokens"),
    ],
)  # fmt: skip
def test_what_is_no_span_of_the_prompt_is_refused(by, error, says):
    with pytest.raises(error, match=says):
        attribution(TOKENS).group(by)


def test_the_hint_for_a_text_that_stands_twice_works():
    with pytest.raises(ScopeParameterError) as caught:
        attribution(TOKENS).group(["The"])
    hint = regex.search(r"as in (\(.*?\)), or", str(caught.value))[1]
    (span,) = [s for s in attribution(TOKENS).group([eval(hint)]).spans if s[0] == 9]
    assert span == (9, 10)


def test_a_text_in_bos_alone_is_none_of_the_prompt():
    tokens = ("<bos>", "<", "bos", ">", " x")
    assert attribution(tokens).group(["bos"]).spans == ((0, 1), (1, 2), (2, 3), (3, 4), (4, 5))
    whole = attribution(("<bos>", "user", " x")).group([("<bos>user x", 0, 9)])
    assert whole.spans == ((0, 2), (2, 3)) and not whole.has_bos


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Hi. You!  Yes?", ["Hi.", " You!", "  Yes?"]),
        ("It is 3.5, e.g. this... or that.", ["It is 3.5, e.g. this... or that."]),
        ('"No." (So.) Yes', ['"No."', " (So.)", " Yes"]),
        ("Dr. Who", ["Dr.", " Who"]),
        ("What?! No… Yes", ["What?!", " No…", " Yes"]),
        ("東京。「いい？」はい。", ["東京。", "「いい？」", "はい。"]),
        ("है। हाँ", ["है।", " हाँ"]),
        ("a.\n\nb\r\nc", ["a.\n\n", "b\r\n", "c"]),
        ("https://a.org/?q=1. Go", ["https://a.org/?q=1.", " Go"]),
        ("\n\nx", ["\n\n", "x"]),
    ],
)
def test_sentences_end_where_the_rule_says(text, wanted):
    found = attribution(("<bos>", *text)).group("sentence")
    assert [*found.str_tokens[1:]] == wanted


def test_long_texts_take_time_by_their_length():
    """In a process of its own: here every call has its types checked, which hides the rest."""
    code = (
        "import time; from tl_scopes.render.tokens import pieces\n"
        "for text in ('a', ' a'):\n"
        "    took = []\n"
        "    for n in (50_000, 800_000):\n"
        "        long = text * (n // len(text)); start = time.perf_counter(); pieces(long)\n"
        "        took.append(time.perf_counter() - start)\n"
        "    print(took[1] / took[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert max(map(float, done.stdout.split())) < 40


@pytest.mark.parametrize("by", ["word", "sentence", [(1, 3)]])
def test_grouping_takes_time_by_the_number_of_tokens(by):
    took = []
    for n in (300, 2400):
        found = attribution(("<bos>", *[" a", "b", ". "] * n))
        start = time.perf_counter()
        found.group(by)
        took.append(time.perf_counter() - start)
    assert took[1] < 30 * took[0]


@pytest.mark.parametrize(
    ("tokens", "by", "wanted"),
    [
        # SmolLM2's kind: the end of BOS and the beginning of the text make ">>>" a second time.
        (("<bos>", ">>", ">", " print"), [">>>"], ((0, 1), (1, 3), (3, 4))),
        (("<bos>", ">>", ">", " print"), [(">>> print", 0, 3)], ((0, 1), (1, 3), (3, 4))),
        (("<bos>", "the", " cat"), ["<bos>the"], ((0, 2), (2, 3))),
    ],
)
def test_no_text_begins_inside_bos(tokens, by, wanted):
    assert attribution(tokens).group(by).spans == wanted


@pytest.mark.parametrize("by", ["os>the", "<bos>", ">the cat", "bos>"])
def test_a_part_of_bos_is_no_text_of_the_prompt(by):
    with pytest.raises(ScopeParameterError, match="does not stand in the prompt"):
        attribution(("<bos>", "the", " cat")).group([by])


TWICE = "xab ab " * 3 + "ab"


@pytest.mark.parametrize(
    ("text", "by"),
    [
        *(("ab " * 12, by) for by in ("ab", ("ab", 1, 2), ("b ab a", 2, 4), (" a", 0, 2))),
        *((TWICE, by) for by in ("ab", ("ab", 1, 2), ("b ab x", 2, 4), (" a", 0, 2))),
        *(("ab" * 20, by) for by in ("ab", ("ab", 1, 2), ("baba", 1, 3))),
    ],
)
def test_the_hint_names_one_place_and_the_characters_asked_for(text, by):
    found = attribution(("<bos>", *text))
    part, start, end = (by, 0, len(by)) if isinstance(by, str) else by
    with pytest.raises(ScopeParameterError, match="more than once") as caught:
        found.group([by])
    within, first, last = eval(regex.search(r"as in (\(.*?\)), or", str(caught.value))[1])
    assert text.count(within) == 1 and within[first:last] == part[start:end]
    (span,) = [s for s in found.group([(within, first, last)]).spans if s[1] > s[0] + 1] or [None]
    at = text.index(within) + first + 1
    assert span == (at, at + end - start) if end - start > 1 else span is None


def test_no_hint_where_every_context_stands_twice():
    with pytest.raises(
        ScopeParameterError, match=r"more than once: give token ranges \(start, end\)"
    ):
        attribution(("<bos>", *["ab "] * 400)).group(["ab"])
