"""The fixture `induction`: does it hold the circuit that tests of `circuits` are to find, on both classes alike."""

from __future__ import annotations

import pytest
import torch

from support import induction, zoo
from support.hook_edits import final_states

each_kind = pytest.mark.parametrize("kind", induction.kinds())
HELD_OUT = 12345


@pytest.fixture(scope="module")
def batch():
    return induction.prompts(48, HELD_OUT)


@pytest.fixture(scope="module")
def tokens(batch):
    return induction.tokens_of(batch)


def test_training_takes_under_a_minute_of_one_core():
    assert induction.weights()[1]["seconds"] < 60


def test_training_is_deterministic(monkeypatch):
    monkeypatch.setattr(induction.induction_training, "STEPS", 3)
    state = torch.get_rng_state()
    first, again, other = (induction.train(seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["embed"], other["embed"])


@pytest.fixture
def trained(monkeypatch, tmp_path):
    """Weights that are good, as if training gave them again; an empty cache."""
    weights = induction.weights()[0]
    monkeypatch.setenv("TL_SCOPES_CACHE", str(tmp_path))
    monkeypatch.setattr(induction, "train", lambda seed: weights)
    return weights


def test_a_second_process_reads_what_the_first_has_trained(trained, monkeypatch, tmp_path):
    induction.weights.__wrapped__()
    assert [path.suffix for path in (tmp_path / "tests").iterdir()] == [".safetensors"]
    monkeypatch.delattr(induction, "train")
    stored, made = induction.weights.__wrapped__()
    assert made["seed"] in induction.SEEDS
    assert stored.keys() == trained.keys()
    assert all(torch.equal(stored[name], trained[name]) for name in trained)


def test_a_seed_without_the_circuit_is_passed_over(trained, monkeypatch):
    idle = trained | {"out.1": torch.zeros_like(trained["out.1"])}
    monkeypatch.setattr(induction, "train", lambda s: trained if s == induction.SEEDS[1] else idle)
    assert induction.weights.__wrapped__()[1]["seed"] == induction.SEEDS[1]


def test_without_a_good_seed_it_says_so_and_stores_nothing(trained, monkeypatch, tmp_path):
    idle = {name: torch.zeros_like(value) for name, value in trained.items()}
    monkeypatch.setattr(induction, "train", lambda seed: idle)
    with pytest.raises(AssertionError, match="seeds"):
        induction.weights.__wrapped__()
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_cache_that_cannot_be_written_only_costs_time(trained, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TL_SCOPES_CACHE", str(tmp_path / "file" / "below"))
    assert induction.weights.__wrapped__()[0] is trained


# -------------------------------------------------------------------------------------------------------- prompts
def test_prompts_are_a_block_twice(batch):
    for prompt in batch:
        full = [*prompt.tokens, prompt.targets[-1]]
        block = full[-prompt.period :]
        assert full[-2 * prompt.period : -prompt.period] == block
        assert full[0] == 0 and min(full[1:]) >= 4 and max(full) < zoo.D_VOCAB
        assert len(set(full)) == len(full) - prompt.period
        assert prompt.targets == [full[read + 1] for read in prompt.reads]
        assert prompt.reads == list(range(len(full) - prompt.period, len(full) - 1))
        assert prompt.tokens.count(prompt.tokens[-1]) == 2
    assert len({prompt.period for prompt in batch}) > 3
    assert {len(prompt.tokens) for prompt in batch} == {24}


def test_prompts_depend_on_the_seed_alone(batch):
    assert induction.prompts(48, HELD_OUT) == batch != induction.prompts(48, HELD_OUT + 1)
    assert {len(p.tokens) for p in induction.prompts(20, 0, n_pos=36)} == {36}


# --------------------------------------------------------------------------------------------------------- models
@each_kind
def test_it_computes_what_was_trained(kind, tokens):
    with torch.no_grad():
        wanted = induction.induction_training._logits(induction.weights()[0], tokens)
        found = induction.shared(kind)(tokens)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4, check_stride=False)


@pytest.mark.skipif(len(induction.kinds()) < 2, reason="one class only")
def test_classes_hold_the_same_weights(tokens):
    with zoo.exact_float64(), torch.no_grad():
        hooked, bridge = (induction.build(k, torch.float64)(tokens) for k in induction.kinds())
    # transformer-lens 3 sends HookedTransformer's rotary tables through float32.
    torch.testing.assert_close(hooked, bridge, atol=1e-5, rtol=1e-5)


@each_kind
def test_text_reaches_it_too(kind):
    model = induction.shared(kind)
    assert model.to_tokens(" Paris London").tolist()[0][0] == 0
    assert model.to_str_tokens(torch.tensor([0, 4]))[0] == "<bos>"


# -------------------------------------------------------------------------------------------------------- circuit
@each_kind
def test_it_has_learned_the_task(kind, batch):
    model = induction.shared(kind)
    assert induction.accuracy(model, batch) > 0.95
    answers = torch.tensor([target for prompt in batch for target in prompt.targets])
    chance = induction.read_logits(model, batch).softmax(-1).gather(1, answers[:, None])
    assert 0.7 < chance.mean() < 0.99, "sure, but not so sure that nothing can move it"


@each_kind
def test_norm_of_the_final_state_says_how_sure_it_is(kind, batch, tokens):
    model = induction.shared(kind)
    with torch.no_grad(), final_states(model) as seen:
        model(tokens)
    norms = seen[0].norm(dim=-1)
    first = torch.stack([row[1 : p.reads[0]].mean() for row, p in zip(norms, batch)])
    second = torch.stack([row[p.reads].mean() for row, p in zip(norms, batch)])
    assert (second > 1.1 * first).all()


@each_kind
def test_one_head_of_each_kind_stands_out(kind, tokens):
    model = induction.shared(kind)
    inducing = induction.induction_scores(model, tokens)
    previous = induction.previous_token_scores(model, tokens)
    (at, before), (after, copier) = induction.circuit(model)
    assert (at, after) == (0, 1)
    assert inducing[1, copier] > 0.7 and inducing[0].max() < 0.2
    assert inducing[1].sort().values[-2] < inducing[1, copier] - 0.3
    assert previous[0, before] > 0.6 and previous[1].max() < 0.2
    assert previous[0].sort().values[-2] < previous[0, before] - 0.3


@each_kind
def test_ablating_the_circuit_destroys_it_and_any_other_head_does_not(kind, batch):
    model = induction.shared(kind)
    named = induction.circuit(model)
    for head in induction.all_heads():
        left = induction.accuracy(model, batch, [head])
        assert left < 0.2 if head in named else left > 0.95, head
    others = [head for head in induction.all_heads() if head not in named]
    assert induction.accuracy(model, batch, others) > 0.9


@each_kind
def test_other_heads_write_too(kind, batch, tokens):
    """Else that they may be ablated would mean nothing."""
    model = induction.shared(kind)
    clean = induction.read_logits(model, batch)
    for head in induction.all_heads():
        assert (induction.read_logits(model, batch, [head]) - clean).abs().max() > 0.01, head


@pytest.mark.skipif(len(induction.kinds()) < 2, reason="one class only")
def test_classes_agree_on_the_circuit(tokens):
    hooked, bridge = (induction.shared(kind) for kind in induction.kinds())
    assert induction.circuit(hooked) == induction.circuit(bridge)
    for measure in (induction.induction_scores, induction.previous_token_scores):
        one, other = measure(hooked, tokens), measure(bridge, tokens)
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


# ------------------------------------------------------------------------------------------------------- measures
@each_kind
def test_scores_are_means_of_the_attention_they_name(kind, batch, tokens):
    model = induction.shared(kind)
    patterns = induction._seen(model, tokens, "hook_pattern")
    previous = torch.zeros(patterns.shape[0], patterns.shape[2])
    inducing, n = torch.zeros_like(previous), 0
    for row, prompt in enumerate(batch):
        n_pos = len(prompt.tokens)
        previous += sum(patterns[:, row, :, i, i - 1] for i in range(1, n_pos)) / (n_pos - 1)
        inducing += sum(patterns[:, row, :, i, i - prompt.period + 1] for i in prompt.reads)
        n += len(prompt.reads)
    found = induction.previous_token_scores(model, tokens)
    torch.testing.assert_close(found, previous / len(batch))
    torch.testing.assert_close(induction.induction_scores(model, tokens), inducing / n)


@each_kind
def test_ablation_is_of_all_named_heads_and_leaves_no_hook(kind, batch):
    model = induction.build(kind)
    clean = induction.read_logits(model, batch)
    none, one = (induction.read_logits(model, batch, heads) for heads in ([], [(0, 0)]))
    both = induction.read_logits(model, batch, iter([(0, 0), (1, 2)]))
    assert torch.equal(none, clean)
    assert not torch.allclose(one, clean) and not torch.allclose(both, one)
    assert torch.equal(induction.read_logits(model, batch), clean)
    n_pos = len(batch[0].tokens)
    assert clean.shape == (sum(p.period - 1 for p in batch), zoo.D_VOCAB) and n_pos == 24
