"""Results: what they hold, how they are cut, and that a file brings back every field."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from support.stored_results import PREDICTION, PROVENANCE, STRANGE, attribution, equal, sequence
from tl_scopes.errors import PositionError, ResultFileError, SiteError
from tl_scopes.results.attribution import Attribution, SequenceAttribution, site_index
from tl_scopes.results.records import FisherInfo, ScopeInfo
from tl_scopes.results.storage import write_file

BARE = {"fisher": None, "standard_error": None}


@pytest.mark.parametrize(
    "result",
    [
        attribution(),
        attribution(**BARE, target=None, prediction=(), scope=ScopeInfo("temperature")),
        attribution(fisher=FisherInfo((1e-300, 0.1 + 0.2), 1e-300, 1 / 3)),
        sequence(),
        sequence(standard_error=None, targets=(None,) * 3, fishers=(None,) * 3),
    ],
    ids=["all", "bare", "digits", "sequence", "bare-sequence"],
)
def test_a_file_brings_back_every_field(result, tmp_path):
    path = result.save(tmp_path / "r.safetensors")
    loaded = type(result).load(path)
    equal(loaded, result)
    equal(type(result).load(str(path)), result)
    assert repr(loaded) == repr(result)


@pytest.mark.parametrize(
    ("made", "kind", "says"),
    [
        (sequence, Attribution, r"holds a SequenceAttribution, not a Attribution.*SequenceAttribution\.load"),
        (attribution, SequenceAttribution, r"holds a Attribution, not a SequenceAttribution.* Attribution\.load"),
    ],
)  # fmt: skip
def test_a_file_of_the_other_class_is_refused(made, kind, says, tmp_path):
    path = made().save(tmp_path / "file")
    with pytest.raises(ResultFileError, match=says):
        kind.load(path)


UNKNOWN = [{"scope": {"__type__": kind}} for kind in ("Nobody", "Token")]


@pytest.mark.parametrize("payload", [{}, {"sites": ["embed"]}, {"nonsense": 1}, *UNKNOWN])
def test_a_file_with_missing_or_unknown_fields_is_refused(payload, tmp_path):
    path = write_file(tmp_path / "odd", "Attribution", {"scores": torch.zeros(1, 1)}, payload)
    with pytest.raises(ResultFileError, match="does not describe a whole Attribution"):
        Attribution.load(path)


def test_results_are_immutable():
    for result in (attribution(), sequence(), PROVENANCE, PREDICTION[0], FisherInfo((), 1.0, 0.0)):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(result, dataclasses.fields(result)[0].name, None)


def test_top():
    result = attribution()
    assert result.top(2) == [(0, "<bos>", 5.0), (2, " “é”", 2.0)]
    assert [t for t, _, _ in result.top()] == [0, 2, 3, 1, 4], "ties keep the order of the prompt"
    assert [t for t, _, _ in result.top(3, site="resid(1)")] == [3, 2, 1]
    assert result.top(3, site=1) == result.top(3, site=-1) == result.top(3, site="resid(1)")
    assert result.top(2, include_bos=False) == [(2, " “é”", 2.0), (3, result.str_tokens[3], 2.0)]
    words = result.top(2, include_bos=False, include_read=False)
    assert [t for t, _, _ in words] == [2, 1] and result.position == 3
    assert attribution(position=0).top(1, include_bos=False, include_read=False)[0][0] == 2
    without = attribution(has_bos=False)
    assert without.top(2, include_bos=False) == without.top(2) == result.top(2)
    assert len(result.top(99, include_bos=False)) == 5
    assert len(result.top(99)) == 6 and result.top(0) == result.top(-1) == []


@pytest.mark.parametrize("site", ["resid(0)", "", 2, -3])
def test_unknown_sites_are_named_errors(site):
    with pytest.raises(SiteError, match=r"embed.*resid\(1\)"):
        attribution().top(site=site)


def test_site_index():
    assert [site_index(("a", "b"), site) for site in ("a", "b", 0, 1, -1, -2)] == [0, 1, 0, 1, 1, 0]


def test_frame():
    frame = attribution().to_frame()
    columns = ["site", "position", "token_id", "token", "score", "standard_error"]
    assert list(frame.columns) == columns and len(frame) == 12
    assert frame.iloc[9].to_list() == ["resid(1)", 3, 9, STRANGE[3], 4.0, 0.125]
    assert (frame.standard_error == 0.125).all()
    pivot = frame.pivot(index="site", columns="position", values="score").loc[["embed", "resid(1)"]]
    assert torch.equal(torch.tensor(pivot.to_numpy()).float(), attribution().scores)
    assert "standard_error" not in attribution(standard_error=None).to_frame()


def test_sequence_frame():
    frame = sequence().to_frame()
    assert frame.columns[0] == "read_position" and len(frame) == 36
    assert frame.read_position.drop_duplicates().tolist() == [3, 5, 1]
    chosen = frame[(frame.read_position == 5) & (frame.site == "embed") & (frame.position == 2)]
    assert chosen.score.tolist() == [4.0]


def test_at():
    whole = sequence()
    assert len(whole) == 3
    for r, p in enumerate(whole.positions):
        one = whole.at(p)
        assert isinstance(one, Attribution) and one.position == p
        assert torch.equal(one.scores, whole.scores[r])
        assert torch.equal(one.standard_error, whole.standard_error[r])
        own = (whole.targets[r], whole.predictions[r], whole.fishers[r])
        assert (one.target, one.prediction, one.fisher) == own
        shared = (whole.sites, whole.str_tokens, whole.scope)
        assert (one.sites, one.str_tokens, one.scope) == shared
    assert sequence(standard_error=None).at(5).standard_error is None


@pytest.mark.parametrize("position", [0, 2, -1, 99])
def test_a_position_that_was_not_read(position):
    with pytest.raises(PositionError, match=rf"{position} is not.*\[3, 5, 1\]"):
        sequence().at(position)


def test_what_is_printed():
    text = repr(attribution())
    assert text.startswith("Attribution(fisher(rank=4, samples=2") and "label" not in text
    assert "2 sites" in text and "read at 3" in text and "'<bos>' 5" in text
    assert "3 read positions" in repr(sequence())
    one = attribution(sites=("embed",), scores=torch.ones(1, 6), standard_error=None)
    assert repr(one).count("embed") == 1
    assert str(ScopeInfo("temperature")) == "temperature"


def test_loading_needs_no_pickle(tmp_path):
    torch.save(attribution().scores, tmp_path / "pickle.pt")
    with pytest.raises(ResultFileError):
        Attribution.load(tmp_path / "pickle.pt")
