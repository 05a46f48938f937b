"""A known circuit: two layers of attention, trained until one previous-token head and one induction head do it all.

On `... A B ... A` the previous-token head of layer 0 writes at `B` "after A", and the induction head of layer 1 looks
from the second `A` for a position marked so and copies its token, `B`. The model is a Llama without MLPs: RMS norms
with gains, rotary positions, no biases. `induction_training` trains it in plain torch, so that every version gets the
same weights, in about 15 s on one core; they are kept under the package's cache folder.

    induction.kinds()                       classes that exist on the installed version
    induction.build("bridge")               a model of one's own; `shared` once per process
    induction.prompts(20, seed=0)           what it was trained for, with the right answers
    induction.induction_scores(model, tokens)      [layer, head], from attention patterns
    induction.accuracy(model, prompts, ablate=[(1, 2)])    with the z of heads replaced by its mean
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import transformers
from torch import Tensor

from support import induction_training, zoo
from support.induction_training import (
    BOS,
    D_HEAD,
    D_MODEL,
    EPS,
    N_HEADS,
    N_LAYERS,
    ROTARY_BASE,
    Prompt,
    prompts,
    tokens_of,
    train,
)
from tl_scopes.models.bundled import cache_root

SEEDS = (2, 7, 1, 3)  # tried in this order
Head = tuple[int, int]


# -------------------------------------------------------------------------------------------------------- models
@functools.cache
def weights() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Trained weights, and how they came about: `{"seconds": of processor time, "seed": ...}`.

    A seed whose circuit is not clean is passed over (one of the first eight is, where this was written: it learns too
    late); an AssertionError when all of `SEEDS` were.
    """
    path = _cached()
    if path.exists():
        with safetensors.safe_open(path, "pt") as file:
            stored = {key: file.get_tensor(key) for key in file.keys()}
            return stored, json.loads(file.metadata()["made"])
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more of them are slower, and sum in another order
    start = time.process_time()
    try:
        for seed in SEEDS:
            with torch.enable_grad():
                trained = train(seed)
            if is_clean(_build(kinds()[0], torch.float32, trained)):
                break
        else:
            raise AssertionError(f"none of the seeds {SEEDS} gave a clean induction circuit")
    finally:
        torch.set_num_threads(n_threads)
    made = {"seconds": time.process_time() - start, "seed": seed}
    _store(path, trained, made)
    return trained, made


def _cached() -> Path:
    """Another file whenever anything changes that can change the weights."""
    files = Path(__file__), Path(induction_training.__file__)
    source = b"".join(file.read_bytes() for file in files)
    key = hashlib.sha256(source + f"{torch.__version__} {zoo.D_VOCAB}".encode()).hexdigest()
    return cache_root() / "tests" / f"induction-{key[:16]}.safetensors"


def _store(path: Path, trained: dict[str, Tensor], made: dict[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            whole = Path(folder) / path.name
            safetensors.torch.save_file(trained, whole, {"made": json.dumps(made)})
            os.replace(whole, path)  # another process sees all of it or nothing
    except OSError:
        pass  # a cache that cannot be written only costs time


def kinds() -> list[str]:
    """ "hooked" and "bridge", as far as the installed transformer-lens has them."""
    classes = {"hooked": zoo.HookedTransformer, "bridge": zoo.TransformerBridge}
    return [kind for kind, found in classes.items() if found is not None]


def build(kind: str, dtype: torch.dtype = torch.float32) -> Any:
    """A fresh trained model in evaluation mode, with the zoo's tokenizer. The bridge's MLPs write zero."""
    return _build(kind, dtype, weights()[0])


@functools.cache
def shared(kind: str, dtype: torch.dtype = torch.float32) -> Any:
    """`build`, once per process: for tests that leave the model as they found it."""
    return build(kind, dtype)


def _build(kind: str, dtype: torch.dtype, trained: dict[str, Tensor]) -> Any:
    return {"hooked": _hooked, "bridge": _bridge}[kind](trained, dtype)


def _hooked(trained: dict[str, Tensor], dtype: torch.dtype) -> Any:
    sizes = dict(n_layers=N_LAYERS, n_heads=N_HEADS, d_head=D_HEAD, d_model=D_MODEL)
    rotary = dict(positional_embedding_type="rotary", rotary_dim=D_HEAD, rotary_base=ROTARY_BASE)
    norms = dict(normalization_type="RMS", final_rms=True, eps=EPS)
    config = zoo.HookedTransformerConfig(
        **sizes, **rotary, **norms, n_ctx=64, d_vocab=zoo.D_VOCAB, attn_only=True,
        model_name="tiny/induction", device="cpu", dtype=dtype,
    )  # fmt: skip
    with zoo.building(dtype):
        model = zoo.HookedTransformer(config, tokenizer=zoo.tokenizer())
    state = {
        "embed.W_E": trained["embed"],
        "unembed.W_U": trained["unembed"].T,
        "ln_final.w": trained["gain.final"],
    }
    for layer in range(N_LAYERS):
        state[f"blocks.{layer}.ln1.w"] = trained[f"gain.{layer}"]
        qkv = trained[f"qkv.{layer}"].view(3, N_HEADS, D_HEAD, D_MODEL).transpose(2, 3)
        for name, matrix in zip("QKV", qkv):
            state[f"blocks.{layer}.attn.W_{name}"] = matrix
        out = trained[f"out.{layer}"].T.reshape(N_HEADS, D_HEAD, D_MODEL)
        state[f"blocks.{layer}.attn.W_O"] = out
    return _filled(model, state)


def _bridge(trained: dict[str, Tensor], dtype: torch.dtype) -> Any:
    config = transformers.LlamaConfig(
        vocab_size=zoo.D_VOCAB, hidden_size=D_MODEL, num_hidden_layers=N_LAYERS, head_dim=D_HEAD,
        num_attention_heads=N_HEADS, num_key_value_heads=N_HEADS, intermediate_size=4,
        max_position_embeddings=64, rms_norm_eps=EPS, tie_word_embeddings=False,
        bos_token_id=BOS, eos_token_id=1, pad_token_id=2, architectures=["LlamaForCausalLM"],
    )  # fmt: skip
    with zoo.building(dtype):
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    state = {
        "model.embed_tokens.weight": trained["embed"],
        "lm_head.weight": trained["unembed"],
        "model.norm.weight": trained["gain.final"],
    }
    for layer in range(N_LAYERS):
        at = f"model.layers.{layer}."
        state[at + "input_layernorm.weight"] = trained[f"gain.{layer}"]
        for name, matrix in zip("qkv", trained[f"qkv.{layer}"].chunk(3)):
            state[at + f"self_attn.{name}_proj.weight"] = matrix
        state[at + "self_attn.o_proj.weight"] = trained[f"out.{layer}"]
    return zoo.boot(_filled(model.to(dtype), state), dtype, "tiny/induction")


def _filled(model: Any, state: dict[str, Tensor]) -> Any:
    """Parameters from `state`; what it does not name, biases and MLPs, is zero, and gains of idle norms stay one."""
    parameters = dict(model.named_parameters())
    assert state.keys() <= parameters.keys(), state.keys() - parameters.keys()
    with torch.no_grad():
        for name, parameter in parameters.items():
            if name in state:
                parameter.copy_(state[name])
            elif not name.endswith("post_attention_layernorm.weight"):
                parameter.zero_()
    return model.eval()


# ------------------------------------------------------------------------------------------------------ measures
def all_heads() -> list[Head]:
    return [(layer, head) for layer in range(N_LAYERS) for head in range(N_HEADS)]


def _seen(model: Any, tokens: Tensor, point: str) -> Tensor:
    """What passes a hook point of every layer's attention: [layer, ...]."""
    seen: dict[int, Tensor] = {}

    def hook(tensor: Tensor, hook: Any, layer: int) -> None:
        seen[layer] = tensor.detach()

    hooks = [
        (f"blocks.{layer}.attn.{point}", functools.partial(hook, layer=layer))
        for layer in range(model.cfg.n_layers)
    ]
    with torch.no_grad():
        model.run_with_hooks(tokens, fwd_hooks=hooks)
    return torch.stack([seen[layer] for layer in range(model.cfg.n_layers)])


def induction_scores(model: Any, tokens: Tensor) -> Tensor:
    """[layer, head]: attention from every token that was there before to the token after its last occurrence, meaned.

    `tokens`: [batch, pos].
    """
    n_pos = tokens.shape[1]
    same = (tokens[:, :, None] == tokens[:, None, :]).tril(-1)
    before = torch.where(same, torch.arange(n_pos), -1).max(-1).values
    pattern = _seen(model, tokens, "hook_pattern")
    after = (before + 1)[None, :, None, :, None].expand(*pattern.shape[:-1], 1)
    attention = pattern.gather(-1, after)[..., 0]
    return (attention * (before >= 0)[:, None]).sum((1, 3)) / (before >= 0).sum()


def previous_token_scores(model: Any, tokens: Tensor) -> Tensor:
    """[layer, head]: attention to the position before, meaned over all but the first. `tokens`: [batch, pos]."""
    return _seen(model, tokens, "hook_pattern").diagonal(-1, -2, -1).mean((1, 3))


def circuit(model: Any) -> tuple[Head, Head]:
    """The previous-token head and the induction head: (layer, head) of the highest score of each kind."""
    tokens = tokens_of(prompts(64, seed=10**6))
    previous, inducing = (
        divmod(int(scores.argmax()), scores.shape[1])
        for scores in (previous_token_scores(model, tokens), induction_scores(model, tokens))
    )
    return previous, inducing


def read_logits(model: Any, batch: Sequence[Prompt], ablate: Iterable[Head] = ()) -> Tensor:
    """[read, d_vocab]: logits at all reads of all prompts, in their order.

    The z of heads in `ablate` is replaced, at every position, by its mean over prompts and positions of the run
    without ablation.
    """
    tokens, ablate = tokens_of(batch), list(ablate)
    means = _seen(model, tokens, "hook_z").mean((1, 2)) if ablate else None

    def to_mean(z: Tensor, hook: Any, layer: int) -> Tensor:
        z = z.clone()
        for at, head in ablate:
            if at == layer:
                z[:, :, head] = means[layer, head]
        return z

    hooks = [
        (f"blocks.{layer}.attn.hook_z", functools.partial(to_mean, layer=layer))
        for layer in {layer for layer, _ in ablate}
    ]
    with torch.no_grad():
        logits = model.run_with_hooks(tokens, fwd_hooks=hooks)
    return torch.cat([row[prompt.reads] for row, prompt in zip(logits, batch)])


def accuracy(model: Any, batch: Sequence[Prompt], ablate: Iterable[Head] = ()) -> float:
    """Share of reads whose top prediction is right. `ablate`: see `read_logits`."""
    targets = torch.tensor([target for prompt in batch for target in prompt.targets])
    return float((read_logits(model, batch, ablate).argmax(-1) == targets).float().mean())


def is_clean(model: Any) -> bool:
    """Whether two heads are the circuit: named by their patterns, needed for the answer, and no other head needed."""
    batch = prompts(64, seed=10**6)
    tokens = tokens_of(batch)
    scores = induction_scores(model, tokens), previous_token_scores(model, tokens)
    named = circuit(model)
    return (
        float(scores[0][1].topk(2).values.diff().abs()) > 0.3
        and float(scores[1][0].topk(2).values.diff().abs()) > 0.3
        and accuracy(model, batch) > 0.95
        and all(accuracy(model, batch, [head]) < 0.5 for head in named)
        and accuracy(model, batch, [h for h in all_heads() if h not in named]) > 0.9
    )
