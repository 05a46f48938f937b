"""The billion-parameter row: Llama-3.2-1B's shape in bfloat16, random weights, a fresh process a case."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

# Peak over weights, by length; at the longer one blocks are run again on the way back, which methods
# that are no scopes do only where activations would not fit.
MOST = {64: 1.15, 512: 1.35}
UNBOUND = "input x gradient"
SHAPE: dict[str, Any] = dict(
    vocab_size=128256,
    hidden_size=2048,
    intermediate_size=8192,
    num_hidden_layers=16,
    num_attention_heads=32,
    num_key_value_heads=8,
    head_dim=64,
    max_position_embeddings=131072,
    rms_norm_eps=1e-5,
    tie_word_embeddings=True,
    bos_token_id=0,
    eos_token_id=1,
)
# Logits of a standard deviation of 4, about that of trained models: all alike they would be a case
# of its own.
GAIN = 4.5


def calls() -> dict[str, Callable[[Any, Any, bool | None], object]]:
    """What is measured: every scope, and the baselines that take gradients of the prediction."""
    import torch

    import tl_scopes as ts
    from tl_scopes import baselines

    scopes = {
        "semantic": ts.SemanticScope(),
        "logit difference": ts.LogitDifferenceScope(10, 11),
        "temperature": ts.TemperatureScope(),
        "fisher 1": ts.FisherScope(rank=1),
        "fisher 4": ts.FisherScope(rank=4),
        "fisher 16 samples": ts.FisherScope(samples=16),
        "entropy (FunctionScope)": ts.FunctionScope(_entropy),
        "direction": ts.DirectionScope(torch.ones(SHAPE["hidden_size"])),
        "gradient norm": baselines.GradientNorm(),
    }
    found: dict[str, Callable[[Any, Any, bool | None], object]] = {
        what: lambda model, ids, blocks, scope=scope: ts.attribute(
            model, ids, scope, checkpoint_blocks=blocks
        )
        for what, scope in scopes.items()
    }
    found[UNBOUND] = lambda model, ids, _: baselines.InputXGradient().attribute(model, ids)
    return found


def run(out: Path, only: str) -> bool:
    """Measure every case, print it and write it to `out`; whether all are within their bounds.

    The model is built once; each case runs in a process forked from there, as a model's first use.
    """
    import torch

    torch.set_num_threads(1)
    _model.append(build())
    cases = [(n, what) for n in MOST for what in calls() if only in what]
    rows = []
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        found = pool.imap(_one, cases)
        for row in tqdm(found, desc="Llama-3.2-1B's shape", total=len(cases), unit="case"):
            rows.append(row)
            tqdm.write(
                "{what:24} {tokens:4} tokens: {peak_over_weights:.3f} of the weights at the peak "
                "(+{extra_mib:.0f} MiB, later {later_mib:.0f}; bound {most}), {ratio:.2f} bare "
                "passes".format(**row)
            )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    print(f"Written to {out}")
    return all(row["met"] for row in rows)


_model: list[Any] = []


def _one(case: tuple[int, str]) -> dict[str, Any]:
    """Of a first call, checks of a model's first use included, and of later ones."""
    import torch

    from benchmarks import measure
    from tl_scopes.checking.spent import spent

    (tokens, what), (model,) = case, _model
    ids = torch.randint(4, 128000, (1, tokens), generator=torch.Generator().manual_seed(0))
    call = calls()[what]
    blocks = True if tokens > min(MOST) else None

    def bare() -> None:
        with torch.no_grad():
            model(ids)

    bare()
    weights = sum(p.nbytes for p in model.parameters()) / 2**20
    _, extra = spent(lambda: call(model, ids, blocks))
    timing = measure.interleaved(
        lambda: call(model, ids, blocks), bare, rounds=2, budget_s=20, warm=False
    )
    assert extra is not None, "memory is measured on Linux only"
    peak = 1 + extra / weights
    most = None if blocks and what == UNBOUND else MOST[tokens]
    return dict(
        what=what,
        tokens=tokens,
        checkpointed=bool(blocks) and what != UNBOUND,
        weights_mib=weights,
        extra_mib=extra,
        later_mib=timing.a_mib,
        bare_mib=timing.b_mib,
        peak_over_weights=peak,
        most=most,
        met=most is None or peak <= most,
        ratio=timing.ratio,
        bare_seconds=min(timing.b),
    )


def build() -> Any:
    """A TransformerBridge of the shape."""
    import torch

    from tl_scopes.models.installed import model_classes

    source, tokenizer = hf_model()
    boot = model_classes()["bridge"].boot_transformers
    options: dict[str, Any] = dict(dtype=torch.bfloat16, device="cpu")
    return boot("random/llama-3.2-1b", hf_model=source, tokenizer=tokenizer, **options)


def hf_model() -> tuple[Any, Any]:
    """The Hugging Face model of the shape, in bfloat16 from the start, and a tokenizer."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<bos>": 0, "<eos>": 1}, unk_token="<bos>"))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        bos_token="<bos>",
        eos_token="<eos>",
        add_bos_token=True,
        name_or_path="random",
    )
    config: Any = LlamaConfig(**SHAPE, architectures=["LlamaForCausalLM"])
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        source: Any = LlamaForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(before)
    with torch.no_grad():
        # One gain for all coordinates would leave Temperature nothing to explain.
        source.model.norm.weight.normal_(GAIN, GAIN / 10)
    return source, tokenizer


def _entropy(logits: Any) -> Any:
    log_p = logits.log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)
