"""`python -m benchmarks confidence`: which neurons of a last layer set how sure a model is, in a table."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

import tl_scopes as ts
from benchmarks.replication.sources import OWN
from benchmarks.rows import versions, write
from tl_scopes import circuits, evaluation, models
from tl_scopes.results.statistics import summary

MODELS = {"smollm2-135m-instruct": "SmolLM2", "gemma-3-270m": "Gemma"}
RESULTS = Path(__file__).parent / "results"
# Each passage is cut off at so many places.
PLACES = 5
# Predictions whose logits are held at once.
AT_ONCE = 20
# Share of directions that count as not seen by the unembedding; neurons of a last layer that are hidden most.
UNSEEN, MOST_HIDDEN = 0.02, 3
CONTROLS = 10


def confidence(
    passages: Annotated[
        int, typer.Option(min=2, help="Passages, of 20, at five places each.")
    ] = 20,
    model: Annotated[list[str] | None, typer.Option(help="Only these models.")] = None,
    threads: Annotated[int, typer.Option(help="torch threads.")] = 2,
    out: Annotated[Path, typer.Option(help="Folder of confidence-MODEL.json.")] = RESULTS,
) -> None:
    """Measure the most hidden writers of a last layer, and those that move length and entropy most."""
    torch.set_num_threads(threads)
    for name in model or MODELS:
        loaded = models.load(name, progress=False)
        texts = evaluation.read(OWN, n=passages).prompts
        rows = Neurons(loaded, [loaded.to_tokens(text)[0] for text in texts]).rows()
        write(out / f"confidence-{name}.json", {"passages": passages, **versions()}, rows)
    print("\n".join(table(sorted(out.glob("confidence-*.json"), reverse=True))))


def table(paths: Sequence[Path]) -> Iterator[str]:
    """Markdown, a neuron a line."""
    yield "| neuron | hidden | length, rank | direction | scale | ablated | over controls | passes |"
    yield "|---|---|---|---|---|---|---|---|"
    for path in paths:
        name = MODELS[path.stem.removeprefix("confidence-")]
        for row in json.loads(path.read_text(encoding="utf-8"))["rows"]:
            over = "{:.2f} to {:.2f}".format(*row["over_controls"])
            by = "" if row["through_scale"][1] > 0 else ", by direction"
            cells = [
                f"{name} {row['neuron']}",
                f"{row['hidden']:.2f}",
                f"{row['length']:.2f}, {row['rank']:,} of {row['of']:,}",
                *(f"{row[key]:.2f}" for key in ("direction", "scale", "ablated")),
                over,
                "yes" if row["passes"] else f"no{by}",
            ]
            yield f"| {' | '.join(cells)} |"


class Neurons:
    """Neurons of a model's last layer, over its predictions after five pieces of each passage."""

    def __init__(self, model: Any, passages: Sequence[Int[Tensor, "pos"]]) -> None:
        self.model, self.block = model, model.blocks[-1]
        self.W = self.block.mlp.W_out.detach()
        self.post = getattr(self.block, "ln2_post", None)  # Gemma has a norm behind the MLP
        ends = [[round(len(ids) * (i + 1) / PLACES) for i in range(PLACES)] for ids in passages]
        self.pieces = [ids[:n] for ids, own in zip(passages, ends) for n in own]
        runs = [self.run(ids) for ids in passages]
        self.acts = [acts[:, :n] for (acts, _), own in zip(runs, ends) for n in own]
        self.stream = torch.stack([x[n - 1] for (_, x), own in zip(runs, ends) for n in own])
        self.last = torch.stack([acts[-1, -1] for acts in self.acts])
        # Of every token but the first, where models park attention.
        every = torch.cat([acts[:, 1:] for acts, _ in runs], 1)
        self.mean, self.spread = every.mean(1), every[-1].std(0)

        with torch.no_grad():
            self.before = self.entropies(self.last)

    @torch.no_grad()
    def run(
        self, ids: Int[Tensor, "pos"]
    ) -> tuple[Float[Tensor, "layer pos neuron"], Float[Tensor, "pos d_model"]]:
        """Activations of all neurons, and the final stream."""
        layers = range(self.model.cfg.n_layers)
        hooks = [f"blocks.{i}.mlp.hook_post" for i in layers]
        end = f"blocks.{layers[-1]}.hook_resid_post"
        _, cache = self.model.run_with_cache(ids[None], names_filter=[*hooks, end])
        return torch.stack([cache[hook][0] for hook in hooks]), cache[end][0]

    @cached_property
    def writes(self) -> Float[Tensor, "neuron d_model"]:
        """What each writes, before the final norm's scale."""
        return self.W if self.post is None else self.W * _gain(self.post, self.W.shape[1])

    @torch.no_grad()
    def hidden(self) -> Float[Tensor, "neuron"]:
        """Share of each write in the directions along which logits differ least."""
        d, W_U = self.W.shape[1], self.model.W_U
        g, mean = _gain(self.model.ln_final, d), W_U.mean(1)
        seen = W_U @ W_U.T - W_U.shape[1] * torch.outer(mean, mean)
        _, directions = torch.linalg.eigh(seen * torch.outer(g, g))  # the least seen first
        unit = torch.nn.functional.normalize(self.writes, dim=1)
        return (unit @ directions[:, : round(UNSEEN * d)]).square().sum(1)

    def lengths(self) -> Float[Tensor, "piece layer neuron"]:
        """First-order effects of all neurons on the length of the final state, against each one's mean and
        summed over all tokens but the first."""
        found, scope = [], ts.TemperatureScope()
        for ids, acts in zip(tqdm(self.pieces, unit="prediction"), self.acts):
            parts = circuits.components(self.model, ids.tolist(), scope, by="neuron")
            rows = [i for i, kind in enumerate(parts.kinds) if kind == "neuron"]
            total = parts.total[rows].unflatten(0, self.mean.shape).transpose(1, 2)
            # An effect against zero tells nothing of a neuron that writes nothing.
            lever = torch.where(acts == 0, 0.0, 1 - self.mean[:, None] / acts)
            found.append((total * lever)[:, 1:].sum(1))
        return torch.stack(found)

    def entropies(
        self, acts: Float[Tensor, "piece neuron"], held: Sequence[Any] = ()
    ) -> Float[Tensor, "piece"]:
        """Of the predictions with other activations of the last layer, in nats: exactly, since only norms
        follow it. `held`: those of them whose scale stays."""

        def normed(norm: Any, x: Tensor, before: Tensor) -> Tensor:
            longer = x.norm(dim=1, keepdim=True) / before.norm(dim=1, keepdim=True)
            return norm(x) * (longer if norm in held else 1)

        before, after = self.last @ self.W, acts @ self.W
        if self.post is not None:
            before, after = self.post(before), normed(self.post, after, before)
        y = normed(self.model.ln_final, self.stream + after - before, self.stream)
        return torch.cat([_entropy(own @ self.model.W_U) for own in y.split(AT_ONCE)])

    def first_order(self, held: Sequence[Any] = ()) -> Float[Tensor, "piece neuron"]:
        """What each neuron does to the entropy, against its mean."""
        acts = self.last.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(self.entropies(acts, held).sum(), acts)
        return gradient * (self.last - self.mean[-1])

    @torch.no_grad()
    def ablated(self, i: int, held: Sequence[Any] = ()) -> Float[Tensor, "piece"]:
        """The change of the entropy with neuron i at its mean."""
        acts = self.last.clone()
        acts[:, i] = self.mean[-1, i]
        return self.entropies(acts, held) - self.before

    def controls(self, i: int, others: Sequence[int]) -> list[int]:
        """Those most like neuron i in spread and length of the write, and none of the others."""
        like = torch.stack([self.spread.clamp(min=1e-9), self.writes.norm(dim=1)]).log()
        far = (like - like[:, [i]]).square().sum(0)
        far[[i, *others]] = torch.inf
        return far.topk(CONTROLS, largest=False).indices.tolist()

    def rows(self) -> list[dict[str, Any]]:
        """Of the most hidden writers, and of those that move length and entropy most."""
        hidden, lengths = self.hidden(), self.lengths().abs().mean(0)
        last, norms = self.model.ln_final, [self.model.ln_final, self.post]
        free, held = self.first_order(), self.first_order(norms)
        direction, scale = held.abs().mean(0), (free - held).abs().mean(0)
        most = [lengths[-1].argmax(), free.abs().mean(0).argmax()]
        chosen = list(dict.fromkeys([*hidden.topk(MOST_HIDDEN).indices.tolist(), *map(int, most)]))
        found = []
        for i in chosen:
            whole, kept = self.ablated(i), self.ablated(i, [last])
            controls = torch.stack([self.ablated(j).abs() for j in self.controls(i, chosen)])
            over = _interval(whole.abs() - controls.mean(0))
            through_scale = _interval((whole - kept).abs() - kept.abs())
            row = {
                "neuron": f"L{len(lengths) - 1}N{i}",
                "hidden": float(hidden[i]),
                "length": float(lengths[-1, i]),
                "rank": int((lengths > lengths[-1, i]).sum()) + 1,
                "of": lengths.numel(),
                "direction": float(direction[i]),
                "scale": float(scale[i]),
                "ablated": float(whole.abs().mean()),
                "over_controls": over,
                "through_scale": through_scale,
                "passes": over[0] > 0 and through_scale[0] > 0,
            }
            found.append(row)
        return found


def _gain(norm: Any, width: int) -> Float[Tensor, "d_model"]:
    """What a norm multiplies each direction by, for an input of length sqrt(width)."""
    with torch.no_grad():
        return norm(1e3 * torch.eye(width)).diag() / width**0.5


def _entropy(logits: Float[Tensor, "*piece d_vocab"]) -> Float[Tensor, "*piece"]:
    log_p = logits.log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)


def _interval(values: Float[Tensor, "piece"]) -> list[float]:
    """95% of the mean, with passages drawn anew."""
    found = summary(values.unflatten(0, (-1, PLACES)).mean(1).tolist())
    return [found.low, found.high]
