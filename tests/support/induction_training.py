"""The task behind `induction`, random words given twice, and the training of a Llama without MLPs, in plain torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from support import zoo

N_LAYERS, N_HEADS, D_HEAD, D_MODEL = 2, 4, 32, 64
BOS, FIRST_WORD = 0, 4  # of the zoo's tokenizer; between them <eos>, <pad> and <unk>
EPS, ROTARY_BASE = 1e-6, 10000
N_POS, PERIODS = 40, (6, 16)
STEPS, WARM_UP, BATCH, RATE, WEIGHT_DECAY = 450, 50, 48, 3e-3, 2.0
# A stream that the induction head's write all but fills would leave first-order effects nothing to
# see, behind a norm that only knows directions: embeddings start large and do not decay.
EMBEDDING = 0.4
# Without smoothing the answer's probability ends at 0.999, where the Fisher information of a
# prediction is all but nothing.
SMOOTHING = 0.05
# Where nothing can be known, all tokens alike are the right answer: so the model learns to be sure
# by ||y||, for which the gains must have come far from one another.
UNSURE, GAIN_RATE = 0.2, 10
# Without these all four heads of layer 1 learn induction alike, and ablating one changes little.
CONCENTRATION, SHARE = 1.0, 0.8


@dataclasses.dataclass(frozen=True)
class Prompt:
    """BOS, words that never return, and a block of words given twice, the second time short of its last word.

    `reads`: positions of the second block; the token that follows `reads[i]` is `targets[i]`. The last read is the
    prompt's last position, whose answer is not in the prompt's second block.
    """

    tokens: list[int]
    period: int
    reads: list[int]
    targets: list[int]


def prompts(n: int, seed: int, n_pos: int = 24) -> list[Prompt]:
    """Random prompts of one length; every word occurs once, or once in either block."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(n):
        longest = min(PERIODS[1], n_pos // 2)
        period = int(torch.randint(PERIODS[0], longest + 1, (), generator=generator))
        words = torch.randperm(zoo.D_VOCAB - FIRST_WORD, generator=generator) + FIRST_WORD
        before, block = words[: n_pos - 2 * period], words[n_pos - 2 * period :][:period]
        full = [BOS, *before.tolist(), *block.tolist() * 2]
        reads = list(range(n_pos - period + 1, n_pos))
        made.append(Prompt(full[:-1], period, reads, [full[i + 1] for i in reads]))
    return made


def tokens_of(batch: Sequence[Prompt]) -> Tensor:
    """[prompt, pos]"""
    return torch.tensor([prompt.tokens for prompt in batch])


def _batch(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens and right answers [batch, pos], and where answers can be known. The blocks may lie anywhere."""
    period = torch.randint(PERIODS[0], PERIODS[1] + 1, (BATCH, 1), generator=generator)
    room = N_POS + 1 - 2 * period
    start = (torch.rand(BATCH, 1, generator=generator) * room).long()
    words = torch.rand(BATCH, zoo.D_VOCAB - FIRST_WORD, generator=generator).argsort(-1)
    place = torch.arange(N_POS)
    source = torch.where(place < start + period, place, place - period)
    full = torch.cat([torch.full((BATCH, 1), BOS), words.gather(1, source) + FIRST_WORD], 1)
    known = (place > start + period) & (place < start + 2 * period)
    return full[:, :-1], full[:, 1:], known


def _initial(seed: int) -> dict[str, torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    width = N_HEADS * D_HEAD
    matrices = {"embed": (zoo.D_VOCAB, D_MODEL), "unembed": (zoo.D_VOCAB, D_MODEL)}
    for layer in range(N_LAYERS):
        matrices |= {f"qkv.{layer}": (3 * width, D_MODEL), f"out.{layer}": (D_MODEL, width)}
    drawn = {k: torch.randn(*s, generator=generator) * 0.02 for k, s in matrices.items()}
    drawn["embed"] *= EMBEDDING / 0.02
    gains = {k: torch.ones(D_MODEL) for k in ("gain.0", "gain.1", "gain.final")}
    return {k: torch.nn.Parameter(v) for k, v in (drawn | gains).items()}


def _rms_norm(x: Tensor, gain: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS) * gain


def _rotated(x: Tensor) -> Tensor:
    frequencies = ROTARY_BASE ** -(torch.arange(0, D_HEAD, 2) / D_HEAD)
    angles = (torch.arange(x.shape[-2])[:, None] * frequencies).repeat(1, 2)
    first, second = x.chunk(2, -1)
    return x * angles.cos() + torch.cat([-second, first], -1) * angles.sin()


def _logits(weights: dict[str, Any], tokens: Tensor) -> Tensor:
    """[batch, pos, d_vocab]"""
    stream = functional.embedding(tokens, weights["embed"])
    for layer in range(N_LAYERS):
        entering = _rms_norm(stream, weights[f"gain.{layer}"])
        qkv = (entering @ weights[f"qkv.{layer}"].T).view(*tokens.shape, 3, N_HEADS, D_HEAD)
        qkv = qkv.permute(2, 0, 3, 1, 4)
        (q, k), v = _rotated(qkv[:2]), qkv[2]
        z = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        stream = stream + z.transpose(1, 2).flatten(2) @ weights[f"out.{layer}"].T
    return _rms_norm(stream, weights["gain.final"]) @ weights["unembed"].T


def _spread(weights: dict[str, Any], layer: int) -> Tensor:
    """How far a layer's heads are from one of them writing all: sum of squared shares of |W_V W_O|, below `SHARE`."""
    out = weights[f"out.{layer}"].view(D_MODEL, N_HEADS, D_HEAD)
    value = weights[f"qkv.{layer}"].view(3, N_HEADS, D_HEAD, D_MODEL)[2]
    gram_out = torch.einsum("dhi,dhj->hij", out, out)
    gram_value = torch.einsum("hid,hjd->hij", value, value)
    norms = (gram_out * gram_value).sum((1, 2)).sqrt()
    return functional.relu(SHARE - (norms / norms.sum()).square().sum())


def train(seed: int) -> dict[str, Tensor]:
    """Weights by name: `embed`, `unembed`, `gain.final` and, a layer, `gain.0`, `qkv.0`, `out.0`."""
    weights = _initial(seed)
    gains = [p for name, p in weights.items() if name.startswith("gain")]
    others = [p for name, p in weights.items() if p.ndim == 2 and name != "embed"]
    groups: Any = [
        {"params": others, "weight_decay": WEIGHT_DECAY, "rate": RATE},
        {"params": [weights["embed"]], "rate": RATE},
        {"params": gains, "rate": GAIN_RATE * RATE},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0, betas=(0.9, 0.98), fused=True)
    generator = torch.Generator().manual_seed(seed + 1)
    for step in range(STEPS):
        now = min(1, (step + 1) / WARM_UP, (STEPS - step) / (0.3 * STEPS))
        for group in optimizer.param_groups:
            group["lr"] = group["rate"] * now
        tokens, answers, known = _batch(generator)
        logits = _logits(weights, tokens)
        loss = functional.cross_entropy(logits[known], answers[known], label_smoothing=SMOOTHING)
        loss = loss - UNSURE * logits[~known].log_softmax(-1).mean()
        for layer in range(N_LAYERS):
            loss = loss + CONCENTRATION * _spread(weights, layer)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(weights.values()), 1.0)
        optimizer.step()
    return {name: parameter.detach() for name, parameter in weights.items()}
