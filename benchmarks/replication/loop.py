"""The loop that the published evaluation scripts run, to time against and to check numbers with.

Independent of the package, and as the authors' scripts do it rather than as one would: a Hugging Face model
takes one passage at a time and computes the logits of every position in every pass; the outer loop is over
methods, so that each computes the intact prediction again; F is summed over the whole vocabulary and taken apart
by a full SVD on the CPU; the embeddings are looked up anew for each share of tokens. Ablation by zero and by a PAD
token are two scripts, of which the second repeats all attributions. Left out: loading models, writing results, the
PAD script's KL. Random subsets are nested in both (in one of the authors' scripts each share draws its own).

Source: arXiv 2601.16407 and the scripts that accompany it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from scipy.integrate import trapezoid
from torch import Tensor

FRACTIONS = (0.05, 0.1, 0.2)
METHODS = ("random", "ig", "input_x_gradient", "semantic", "temperature", "fisher")
_CHUNK = 8192
_STEPS = (0.2, 0.4, 0.6, 0.8, 1.0)

# Base logits [pos, d_vocab] and scores [pos] of one passage.
Attributed = tuple[Tensor, np.ndarray]
Run = Callable[..., tuple[Tensor, Tensor]]


class PublishedLoop:
    """`prompts` of its methods: rows of ids with one BOS; the last token is the target, read before it.

    AOPC is the published one: the trapezoid of the change of the predicted token's log-probability,
    negative where ablation hurts.
    """

    def __init__(self, model: Any, filler: int | None = None, tokenizer: Any = None) -> None:
        self.model, self.filler, self.tokenizer = model, filler, tokenizer
        self.body, self.head = model.model, model.get_output_embeddings()

    def zero(self, prompts: Sequence[list[int]]) -> dict[str, list[float]]:
        """AOPC by method: the script of the main table."""
        return self._script(prompts, ("zero",))["zero"]

    def pad(self, prompts: Sequence[list[int]]) -> dict[str, list[float]]:
        """AOPC by method: the script of the PAD table, which repeats the attributions."""
        return self._script(prompts, ("pad",))["pad"]

    def both(self, prompts: Sequence[list[int]]) -> dict[str, dict[str, list[float]]]:
        """AOPC by replacement and method, as one script would compute it that repeated nothing."""
        return self._script(prompts, ("zero", "pad"))

    def leave_one_out(self, prompts: Sequence[list[int]]) -> list[list[float]]:
        """KL(intact || without) of every token up to the read: a pass for each, with all its logits."""
        found = []
        for row in prompts:
            ids = torch.tensor([row], device=self.model.device)
            run, embeddings = self._rebuilt(ids)
            at, offset = ids.shape[1] - 2, torch.zeros_like(embeddings)
            own = []
            with torch.no_grad():
                before = run(offset)[1][at].float().log_softmax(-1)
                for t in range(at + 1):
                    presence = torch.ones(1, ids.shape[1], 1, device=ids.device)
                    presence[0, t] = 0
                    after = run(offset, presence)[1][at].float().log_softmax(-1)
                    own.append(float((before.exp() * (before - after)).sum()))
            found.append(own)
        return found

    def _script(
        self, prompts: Sequence[list[int]], kinds: Sequence[str]
    ) -> dict[str, dict[str, list[float]]]:
        random = np.random.RandomState(42)
        found: dict[str, dict[str, list[float]]] = {kind: {} for kind in kinds}
        for method in METHODS:
            for row in prompts:
                ids = torch.tensor([row], device=self.model.device)
                if self.tokenizer is not None:
                    [self.tokenizer.decode([i]) for i in row]
                base, scores = self._attribute(method, ids, random)
                base = base.cpu()
                _empty_cache()
                for kind in kinds:
                    falls = [self._change(ids, base, scores, f, kind) for f in FRACTIONS]
                    area = float(trapezoid(falls, FRACTIONS))
                    found[kind].setdefault(method, []).append(area)
        return found

    def _change(
        self, ids: Tensor, base: Tensor, scores: np.ndarray, fraction: float, kind: str
    ) -> float:
        n = len(scores) - 1
        count = max(1, int(n * fraction))
        chosen = np.argsort(scores[1:])[::-1][:count] + 1
        run, embeddings = self._rebuilt(ids)
        presence = torch.ones(1, ids.shape[1], 1, device=ids.device)
        offset = torch.zeros_like(embeddings)
        if kind == "zero":
            presence[0, chosen.copy()] = 0
        else:
            filler = torch.tensor([[self.filler]], device=ids.device)
            offset[0, chosen.copy()] = (
                self.model.get_input_embeddings()(filler)[0, 0].detach()
                - embeddings[0, chosen.copy()]
            )
        with torch.no_grad():
            _, logits = run(offset, presence)
        at = ids.shape[1] - 2
        before, after = (x[at].float().log_softmax(-1) for x in (base, logits.cpu()))
        token = int(before.argmax())
        _empty_cache()
        return float(after[token] - before[token])

    def _rebuilt(self, ids: Tensor) -> tuple[Run, Tensor]:
        """The forward pass as a function of an offset of the embeddings: hidden states and all logits."""
        embeddings = self.model.get_input_embeddings()(ids).detach()
        mask = torch.ones_like(ids)

        def run(offset: Tensor, presence: Tensor | None = None, alpha: float = 1.0) -> Any:
            x = embeddings + offset
            if presence is not None:
                x = x * presence
            hidden = self.body(
                inputs_embeds=x * alpha, attention_mask=mask, use_cache=False
            ).last_hidden_state[0]
            return hidden, self.head(hidden)

        return run, embeddings

    def _attribute(self, method: str, ids: Tensor, random: np.random.RandomState) -> Attributed:
        run, embeddings = self._rebuilt(ids)
        at, target = ids.shape[1] - 2, int(ids[0, -1])
        if method == "random":
            with torch.no_grad():
                _, logits = run(torch.zeros_like(embeddings))
            return logits, random.rand(ids.shape[1])
        if method == "fisher":
            return self._fisher(run, embeddings, at)
        offset = torch.zeros_like(embeddings, requires_grad=True)
        if method == "ig":
            return self._ig(run, embeddings, at, target)
        hidden, logits = run(offset)
        if method == "temperature":
            y = hidden[at]
            loss = (y / y.norm()).detach() @ y
        elif method == "semantic":
            loss = -logits[at, target]
        else:
            loss = _cross_entropy(logits[at], target)
        gradient = _gradient(loss, offset)
        if method == "input_x_gradient":
            gradient = gradient * embeddings
        return logits.detach(), gradient.norm(dim=-1)[0].cpu().numpy()

    def _ig(self, run: Run, embeddings: Tensor, at: int, target: int) -> Attributed:
        offset = torch.zeros_like(embeddings, requires_grad=True)
        total, base = torch.zeros_like(embeddings), None
        for alpha in _STEPS:
            _, base = run(offset, alpha=alpha)
            total += _gradient(_cross_entropy(base[at], target), offset)
        assert base is not None
        scores = (total / len(_STEPS) * embeddings).norm(dim=-1)
        return base.detach(), scores[0].cpu().numpy()

    def _fisher(self, run: Run, embeddings: Tensor, at: int, k: int = 1) -> Attributed:
        offset = torch.zeros_like(embeddings, requires_grad=True)
        _, logits = run(offset)
        base = logits.detach()
        W = self.head.weight.detach().float()
        p = base[at].float().softmax(-1)
        mu = p @ W
        F = torch.zeros(W.shape[1], W.shape[1], device=W.device)
        for start in range(0, len(W), _CHUNK):
            rows = W[start : start + _CHUNK]
            F += rows.T @ (rows * p[start : start + _CHUNK, None])
        F -= torch.outer(mu, mu)
        vectors, values, _ = torch.linalg.svd(F.cpu())
        vectors, values = vectors[:, :k].to(W.device), values[:k].to(W.device)
        hidden, _ = run(offset)
        probes = hidden[at] @ vectors
        (pulled,) = torch.autograd.grad(
            probes, offset, torch.eye(k, device=W.device), is_grads_batched=True
        )
        scores = [
            float((values.diag() @ (g := pulled[:, 0, t]) @ g.T).trace()) for t in range(at + 2)
        ]
        return base, np.array(scores)


def _cross_entropy(logits: Tensor, target: int) -> Tensor:
    return torch.nn.functional.cross_entropy(
        logits[None].float(), torch.tensor([target], device=logits.device)
    )


def _gradient(loss: Tensor, offset: Tensor) -> Tensor:
    return torch.autograd.grad(loss, offset)[0]


def _empty_cache() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
