"""Circuits under gradient rules: sums that must hold, and edges whose share is known."""

from __future__ import annotations

import pytest

import tl_scopes as ts
from support import zoo
from support.exact import close
from support.reference import TOKENS
from tl_scopes import circuits
from tl_scopes.errors import ScopeParameterError
from tl_scopes.rules import GIM, Rules

A = 7
SCOPE = ts.SemanticScope(A)
RULED = ts.SemanticScope(A, rules=GIM())
NAMES = zoo.known("bridge/gemma2", "hooked/mistral")
OTHER = [*TOKENS[:1], *TOKENS[:0:-1]]


@pytest.mark.parametrize("name", NAMES)
def test_influence_through_layers_and_heads_is_that_of_attribute(name):
    model = zoo.shared(name)
    with zoo.exact_float64():
        wanted = ts.attribute(model, TOKENS, RULED)
        found = [
            circuits.flow(model, TOKENS, SCOPE, 2, rules=GIM()),
            circuits.flow(model, TOKENS, RULED, 1),
            circuits.head_paths(model, TOKENS, RULED, split=True),
        ]
        # Forward and backward derivatives are held against each other inside.
        path = circuits.flow_path(model, TOKENS, RULED, [1, 2])
    for one in found:
        close(one.scores, wanted.scores[0], 1e-9)
        assert one.provenance.rules == GIM() and one.frozen == ("norms",)
    heads = found[2]
    close(heads.value_signed + heads.pattern_signed, heads.signed, 1e-9)
    close(heads.signed.sum(1) + heads.outside_signed, heads.scores.expand(3, -1), 1e-9)
    close(path.nodes[0], wanted.scores[0], 1e-9)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("split", "shares"),
    [("attention", {".v": 0.5, ".q": 0.25, ".k": 0.25, "_mlp_in": 1}), ("mlp", {"_mlp_in": 0.5})],
)
def test_edges_into_the_last_block_have_the_share_of_what_reads(name, split, shares):
    """Between the last block and what is read there is no other product of the kind."""
    model = zoo.shared(name)
    pairs = circuits.Pairs([TOKENS], [OTHER], SCOPE)
    last = model.cfg.n_layers - 1
    rules = Rules(split_products=split)
    with zoo.exact_float64():
        plain, ruled = (circuits.edges(model, pairs, rules=r) for r in (None, rules))
    assert ruled.provenance.rules == rules
    for reader, share in shares.items():
        rows = [
            i
            for i, j in enumerate(plain.reader.tolist())
            if plain.readers[j].startswith((f"L{last}", str(last)))
            and plain.readers[j].endswith(reader)
        ]
        close(ruled.effects[:, rows], share * plain.effects[:, rows], 1e-9)
    read = plain.reader == plain.readers.index("read")
    close(ruled.effects[:, read], plain.effects[:, read], 1e-9)


def test_rules_of_calls_scopes_and_what_is_held_come_together():
    model = zoo.shared(NAMES[0])
    half = Rules(split_products="attention")
    with zoo.exact_float64():
        one = circuits.components(model, TOKENS, SCOPE, frozen="patterns", rules=half)
        other = circuits.components(
            model, TOKENS, ts.SemanticScope(A, rules=half), frozen="patterns"
        )
        paired = circuits.components(
            model, circuits.Pairs([TOKENS], [OTHER], SCOPE), frozen="patterns", rules=half
        )
        checked = circuits.verify(model, TOKENS, one, by="head", top=2, random=2, steps=[1])
    wanted = Rules(split_products="attention", frozen="patterns")
    for found in (one, other, paired):
        assert found.provenance.rules == wanted and found.frozen == ("patterns",)
    close(one.total, other.total, 1e-12)
    assert checked.provenance.rules == wanted
    unlike = circuits.Pairs([TOKENS] * 2, [OTHER] * 2, [SCOPE, RULED])
    with pytest.raises(ScopeParameterError, match="different gradient rules"):
        circuits.edges(model, unlike)
