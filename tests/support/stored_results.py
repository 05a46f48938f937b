"""Results with something strange in every field, and whether two are the same."""

from __future__ import annotations

import dataclasses

import torch

from support.infos import sequence_like
from tl_scopes.results.attribution import Attribution, SequenceAttribution
from tl_scopes.results.records import Candidate, FisherInfo, Provenance, ScopeInfo, Token

STRANGE = ("<bos>", "\n", " “é”", "</script>", "\u202e", "🙂")
PROVENANCE = Provenance(
    model="tiny",
    model_class="HookedTransformer",
    dtype="float32",
    device="cpu",
    processing="raw",
    precision="differentiated in float32, norms reduced in float32",
    versions={"torch": "2.0", "x": ""},
)
PREDICTION = (Candidate(3, " “é”", 0.75), Candidate(1, "\n", 1e-30))


def attribution(**changes) -> Attribution:
    fields = dict(
        scores=torch.tensor([[5.0, 0.5, 2.0, 2.0, 0.0, 0.0], [1.0, 2.0, 3.0, 4.0, 0.0, 0.0]]),
        sites=("embed", "resid(1)"),
        tokens=torch.tensor([0, 1, 3, 9, 8, 7]),
        str_tokens=STRANGE,
        has_bos=True,
        position=3,
        scope=ScopeInfo(
            "fisher", {"rank": 4, "samples": 2, "tail": 1e-6, "label": None, "names": ("a", "b")}
        ),
        target=Token(3, " “é”"),
        units="nats per unit^2 of residual",
        prediction=PREDICTION,
        fisher=FisherInfo((1.5, 0.25), 2.0, 0.875, 2),
        standard_error=torch.full((2, 6), 0.125),
        provenance=PROVENANCE,
    )
    return Attribution(**fields | changes)


def sequence(**changes) -> SequenceAttribution:
    one = attribution()
    fields = dict(
        scores=torch.stack([one.scores, one.scores * 2, one.scores * 3]),
        targets=(one.target, None, Token(1, "\n")),
        predictions=(PREDICTION, (), PREDICTION[:1]),
        fishers=(one.fisher, None, FisherInfo((), 0.0, 1.0)),
        standard_error=torch.stack([one.standard_error] * 3),
    )
    return sequence_like(one, (3, 5, 1), **fields | changes)


def equal(one, other) -> None:
    assert type(one) is type(other)
    for field in dataclasses.fields(one):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if isinstance(a, torch.Tensor):
            assert torch.equal(a, b) and a.dtype == b.dtype and b.device.type == "cpu", field.name
        else:
            assert a == b and type(a) is type(b), field.name
