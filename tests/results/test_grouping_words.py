"""Scores of words and spans: against joint derivatives on zoo models, and words against texts by hand."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tl_scopes as ts
from support import reference, zoo
from support.exact import exactly
from support.pictures import attribution, sequence
from support.reference import TOKENS
from tl_scopes import baselines
from tl_scopes.errors import PositionError, ResultFileError, ScopeParameterError
from tl_scopes.results.attribution import Attribution, SequenceAttribution
from tl_scopes.results.joining import (
    exact_how,
)
from tl_scopes.results.records import ScopeInfo, Stability
from tl_scopes.results.spans import word_spans

MODELS = [zoo.names("", "layernorm")[0], zoo.names("", "rms")[-1]]
SPANS = [(1, 3), (4, 6)]


def joint(ref: reference.Reference, start: int, end: int, scalar) -> torch.Tensor:
    """The gradient of `scalar(y)` with respect to one vector: the embeddings of a word, end to end."""
    n, d = ref.shape("embed")
    word = torch.zeros((end - start) * d, dtype=torch.float64, requires_grad=True)
    rows = [torch.zeros(start, d), word.reshape(-1, d), torch.zeros(n - end, d)]
    seen = ref.forward({"embed": torch.cat([row.double() for row in rows])})
    (gradient,) = torch.autograd.grad(scalar(seen["final"][0, ref.position]), word)
    return gradient


@pytest.mark.parametrize("name", MODELS)
def test_norm_is_the_norm_of_the_joint_gradient(name):
    ref = reference.of(name)
    column = zoo.shared(name).W_U[:, 7].detach()
    scopes = {ts.SemanticScope(7): lambda y: y @ column, ts.TemperatureScope(): torch.Tensor.norm}
    for scope, scalar in scopes.items():
        found = exactly(ts.attribute, name, scope)
        grouped = found.group(SPANS)
        assert grouped.how == "norm" == exact_how(found.scope, found.units)
        for start, end in SPANS:
            wanted = float(joint(ref, start, end, scalar).norm())
            got = float(grouped.scores[0, grouped.spans.index((start, end))])
            assert got == pytest.approx(wanted, rel=1e-9) and wanted > 1e-4
            parts = found.scores[0, start:end]
            assert float(parts.max()) < got < float(parts.sum())


@pytest.mark.parametrize("name", MODELS)
def test_fisher_adds_up_to_the_trace_over_the_word(name):
    ref, found = reference.of(name), exactly(ts.attribute, name, ts.FisherScope("full"))
    grouped = found.group(SPANS)
    assert grouped.how == "sum" and grouped.fisher == found.fisher
    J, F = ref.jacobian("embed"), reference.fisher_matrix(ref)
    for start, end in SPANS:
        word = J[:, start:end].flatten(1)
        wanted = float(torch.trace(word.T @ F @ word))
        assert float(grouped.scores[0, grouped.spans.index((start, end))]) == pytest.approx(wanted)


def test_words_of_a_real_tokenizer_from_attribute_to_file(tmp_path):
    name = zoo.names("", "rms")[-1]
    model = zoo.shared(name, torch.float32)
    found = ts.attribute(model, "The capital of France is Parisian not", ts.SemanticScope(7))
    words = found.group()
    assert words.str_tokens[1:] == ("The", " capital", " of", " France", " is", " Parisian", " not")
    at = words.str_tokens.index(" Parisian")
    start, end = words.spans[at]
    assert end - start == 4  # " Paris", "i", "a", "n"
    wanted = found.scores[0, start:end].double().square().sum().sqrt()
    assert float(words.scores[0, at]) == pytest.approx(float(wanted), rel=1e-6)
    assert words.position == len(words.str_tokens) - 1 and words.units == found.units
    assert words.has_bos and words.spans[0] == (0, 1) and words.target == found.target
    again = Attribution.load(words.save(tmp_path / "words.safetensors"))
    assert again.spans == words.spans and again.how == "norm"
    assert torch.equal(again.scores, words.scores)
    with pytest.raises(ResultFileError, match=r"holds a Attribution.* use Attribution\.load"):
        SequenceAttribution.load(tmp_path / "words.safetensors")
    frame = words.to_frame()
    assert list(frame) == ["site", "group", "start", "end", "text", "score"]
    assert [*zip(frame.start, frame.end)] == list(words.spans) and frame.text[at] == " Parisian"


@pytest.mark.parametrize(
    ("method", "how"),
    [
        (baselines.InputXGradient(), "norm"),
        (baselines.InputXGradient(reduce="sum"), "sum"),
        (baselines.GradientNorm(), "norm"),
        (baselines.LeaveOneOut(), None),
        (baselines.Random(), None),
        (ts.FisherScope(1), "sum"),
    ],
)
def test_what_is_exact_follows_from_what_a_score_is(method, how):
    model = zoo.shared(MODELS[0], torch.float32)
    attribute = getattr(method, "attribute", None)
    found = attribute(model, TOKENS) if attribute else ts.attribute(model, TOKENS, method)
    assert exact_how(found.scope, found.units) == how
    if how is None:
        with pytest.raises(ScopeParameterError, match="choose one yourself"):
            found.group(SPANS)
        assert found.group(SPANS, "max").how == "max"
    else:
        assert found.group(SPANS).how == how


def test_ways_of_joining_by_hand():
    a = attribution(
        ("<bos>", "un", "bel", "!", " x"), [[9, 3, -4, 1, 0]],
        standard_error=torch.tensor([[1, 0.1, 0.2, 0.3, 0.4]]),
        stability=Stability("float64", (1.0,), (1.0,), (0.0,)),
    )  # fmt: skip
    found = {how: a.group([(1, 3)], how) for how in ("sum", "norm", "max")}
    assert {how: g.scores[0].tolist() for how, g in found.items()} == {
        "sum": [9, -1, 1, 0], "norm": [9, 5, 1, 0], "max": [9, -4, 1, 0],
    }  # fmt: skip
    errors = {how: g.standard_error[0, 1].item() for how, g in found.items()}
    assert errors == pytest.approx({"sum": 0.3, "norm": (3 * 0.1 + 4 * 0.2) / 5, "max": 0.2})
    assert found["norm"].standard_error[0, -1] == pytest.approx(0.4)  # at zero too
    g = found["sum"]
    assert g.stability is None and g.str_tokens[1] == "unbel" and g.tokens.tolist() == [0, 1, 3, 4]
    assert g.top(2) == [(0, "<bos>", 9.0), (2, "!", 1.0)]
    assert "4 groups (sum) of 5 tokens" in repr(g) and repr(g).startswith("Attribution(")
    assert not a.group([(0, 2)]).has_bos


def test_the_position_is_the_group_that_holds_it():
    a = attribution(("<bos>", " a", "b", "c", " d"), [[9, 1, 2, 0, 0]], position=2)
    g = a.group()
    assert g.position == 1 and g.spans == ((0, 1), (1, 4), (4, 5))
    assert g.read == g.read_token == a.read_token == (2, "b")
    assert "read at 2; top" in repr(g)


def test_a_file_keeps_the_token_that_was_read_and_older_ones_have_the_group(tmp_path):
    g = attribution(("<bos>", " a", "b", "c", " d"), [[9, 1, 2, 0, 0]], position=2).group()
    again = Attribution.load(g.save(tmp_path / "new"))
    assert again.read == (2, "b")
    older = dataclasses.replace(g, read=None)
    again = Attribution.load(older.save(tmp_path / "old"))
    assert again.read is None and again.read_token == (1, " abc")


def test_a_sequence_keeps_its_reads():
    s = sequence(("<bos>", " un", "bel", " the", "y"))
    g = s.group(how="sum")
    assert g.spans == ((0, 1), (1, 3), (3, 5))
    assert g.positions == s.positions and g.read_tokens == (" un", "bel", " the", "y")
    assert torch.equal(g.scores[..., 1], s.scores[..., 1] + s.scores[..., 2])
    for p in s.positions:
        one, alone = g.at(p), s.at(p).group(how="sum")
        assert one.position == alone.position == (p + 1) // 2
        assert torch.equal(one.scores, alone.scores)
        assert one.read == alone.read == (p, s.str_tokens[p])
    assert list(g.to_frame())[:3] == ["read_position", "site", "group"]
    assert "3 groups (sum) of 5 tokens" in repr(g)


def words(*texts: str, bos: bool = True) -> list[str]:
    spans = word_spans(texts, bos)
    return ["".join(texts[a:b]) for a, b in spans]


# As Gemma's and SmolLM2's tokenizers decode them one by one.
LOST = "\ufffd"
CASES = [
    (["<bos>", "don", "'", "t", " stop", ","], ["<bos>", "don't", " stop", ","]),
    (["<bos>", "don", "'t", " stop", "'", " x"], ["<bos>", "don't", " stop", "'", " x"]),
    (["<bos>", " well", "-", "known", " (", "x", ")"], ["<bos>", " well", "-", "known", " (", "x", ")"]),
    (["<bos>", "my", "_", "var", " =", " 3", ".", "1"], ["<bos>", "my_var", " =", " 3", ".", "1"]),
    (["<bos>", "1", "2", ",", "3", "4", "5", ","], ["<bos>", "12", ",", "345", ","]),
    (["<bos>", "    ", "return", " x", "\n\n", "\t", "y"], ["<bos>", "    ", "return", " x", "\n\n", "\t", "y"]),
    (["<bos>", " ", "3", "7", " ", "👨", "\u200d", "👩"], ["<bos>", " 37", " 👨\u200d👩"]),
    (["<bos>", " a", " ", *[LOST] * 4, " é"], ["<bos>", " a", " " + LOST * 4, " é"]),
    (["<bos>", " a", "<0xE2>", "<0x82>", " b"], ["<bos>", " a<0xE2><0x82>", " b"]),
    (["<bos>", "日本", "語", "は", " ok"], ["<bos>", "日本", "語", "は", " ok"]),
    (["<bos>", "▁The", "▁cap", "ital"], ["<bos>", "▁The", "▁capital"]),
    (["<bos>", "<start>", "user", "\n", "Hi", " you"], ["<bos>", "<start>", "user", "\n", "Hi", " you"]),
    (["bos", "The", " end"], ["bos", "The", " end"]),
    (["<bos>", " e", "\u0301", "t", ""], ["<bos>", " e\u0301t", ""]),
]  # fmt: skip


@pytest.mark.parametrize(("texts", "wanted"), CASES)
def test_words_by_their_texts(texts, wanted):
    assert words(*texts) == wanted


def test_without_bos_the_first_token_may_go_on():
    assert words("un", "bel", " x", bos=False) == ["unbel", " x"]


@given(st.lists(st.text(st.characters(), max_size=3), min_size=1, max_size=12))
def test_any_texts_are_cut_once_and_into_all_of_them(texts):
    found = word_spans(texts, True)
    assert found[0][0] == 0 and found[-1][1] == len(texts)
    assert all(a < b for a, b in found)
    assert all(end == start for (_, end), (start, _) in pairwise(found))


@pytest.mark.parametrize(
    ("by", "how", "error", "says"),
    [
        ("words", None, ScopeParameterError, "by is 'words'"),
        ([(1, 2, 3)], None, ScopeParameterError, r"\(start, end\)"),
        ([1, 2], None, ScopeParameterError, r"\(start, end\)"),
        ([(0.5, 2)], None, ScopeParameterError, r"\(start, end\)"),
        ([(1, 1)], None, PositionError, "end <= 4"),
        ([(2, 5)], None, PositionError, r"span \(2, 5\)"),
        ([(-1, 2)], None, PositionError, r"span \(-1, 2\)"),
        ([(2, 4), (1, 3)], None, ScopeParameterError, r"\(1, 3\) and \(2, 4\) overlap"),
        ("word", "mean", ScopeParameterError, "how is 'mean'"),
    ],
)
def test_bad_spans_are_refused(by, how, error, says):
    with pytest.raises(error, match=says):
        attribution().group(by, how)


def test_one_word_is_a_word():
    assert words("<bos>", "E", "iff", "el") == ["<bos>", "Eiffel"]


def test_groups_are_not_grouped_again():
    with pytest.raises(ScopeParameterError, match="groups already"):
        attribution().group().group()
    with pytest.raises(ScopeParameterError, match="groups already"):
        sequence().group().group()


def test_units_of_scopes_of_your_own_decide():
    a = attribution(scope=ScopeInfo("mine"), units="bits per unit of residual")
    assert exact_how(a.scope, a.units) == "norm"
    assert exact_how(a.scope, "bits^2 per unit^2") == "sum"
    assert exact_how(a.scope, "bits") is None
