"""Ways to estimate the full Fisher score from few backward passes, by their exact errors.

A score is `tr(S^T J_t J_t^T S)` with `F = S S^T`. Every estimator is a function of the matrices
`M_t = S^T J_t J_t^T S`, so one pass for each coordinate of the final state tells the errors of all of them.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor
from tqdm import tqdm

from benchmarks import passages
from tl_scopes import models
from tl_scopes.adapter.view import ModelView, view_of
from tl_scopes.jacobian import probes
from tl_scopes.jacobian.backward import pull
from tl_scopes.jacobian.forward import read_values
from tl_scopes.scopes.fisher import FisherGeometry

PASSES = (4, 8, 16, 32)
TODAY = "leading eigenvectors of F, signs of tokens (today)"
# Tokens whose own squares Rademacher signs leave out: the likeliest hold nearly all of them.
_HEAVY = 64
_CHUNK = 64
_DRAWS = 20


def sampling(
    model: Annotated[list[str] | None, typer.Option(help="Only these models.")] = None,
    tokens: Annotated[int, typer.Option(help="At most so many of each passage.")] = 12,
    keep: Annotated[
        Path | None, typer.Option(help="Folder of Jacobians: made, or taken from there.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for sampling.json.")] = Path(__file__).parent
    / "results",
) -> None:
    """Errors of estimators of the full Fisher score at 4 to 32 passes, on twelve passages (20 minutes)."""
    torch.manual_seed(0)
    out.mkdir(parents=True, exist_ok=True)  # before what takes twenty minutes
    rows: list[dict[str, Any]] = []
    lengths: dict[str, list[int]] = {}
    for name in model or ("gemma-3-270m", "smollm2-135m-instruct"):
        found = [_prepared(each) for each in _measured(name, tokens, keep)]
        lengths[name] = [len(m["M"]) for m in found]
        for what, n, errors in _errors(found):
            rows.append({"model": name, "what": what, "passes": n, "errors": errors})
    _print(rows)
    path = out / "sampling.json"
    path.write_text(json.dumps({"tokens": lengths, "rows": rows}), encoding="utf-8")
    print(f"Written to {path}")


def _measured(name: str, tokens: int, keep: Path | None) -> Iterator[dict[str, Any]]:
    loaded = models.load(name, backend="bridge", progress=False)
    for what, ids in tqdm(passages.tokens(loaded, tokens).items(), desc=name):
        path = None if keep is None else keep / f"{name}-{what.replace(' ', '_')}.pt"
        if path is not None and path.exists():
            yield torch.load(path)
            continue
        found = _jacobian(view_of(loaded), ids)
        if path is not None:
            torch.save(found, path)
        yield found


def _jacobian(view: ModelView, ids: Tensor) -> dict[str, Any]:
    """`K[t] = J_t J_t^T` at the embedding, [pos, d_model, d_model], `Jn` of the final norm alone, `F`, and
    the rows of the likeliest tokens whose outer products make most of `F`."""
    with view.locked():
        sites = view.sites(["embed", view.n_layers])
        recording = probes.record(view, ids, sites, None, whole=True)
        read = read_values(view, None, recording.read, [0], [ids.shape[1] - 1])
        slots = [slot for slot in recording.slots if slot is not None]
        parts = [
            pull(view, [read], slots, [some[:, None]])
            for some in torch.eye(view.d_model).split(_CHUNK)
        ]
        J, Jn = (torch.cat([part[i][:, 0] for part in parts]) for i in range(2))  # pyright: ignore
        head = view.unembedding()
        with torch.no_grad():
            geometry = FisherGeometry.at(head, head.raw_logits(read.detach())[0])
            heavy = geometry.p.topk(_HEAVY).indices
            (rows,) = (rows for _, rows in head.columns(heavy, geometry.slope))
            J = J / view.embed_scale
            return {
                "K": torch.einsum("itd,jtd->tij", J, J),
                "Jn": Jn[:, -1],
                "F": geometry.matrix(0.0),
                "rows": (rows - geometry.mu) * geometry.p[heavy, None].sqrt(),
            }


def _prepared(found: dict[str, Any]) -> dict[str, Tensor]:
    """`M` [token, d, d] on the eigenvectors of F, largest first, and what else estimators take up."""
    values, U = torch.linalg.eigh(found["F"].double())
    values, U = values.flip(0).clamp_min(1e-12 * values[-1]), U.flip(1)
    S = U * values.sqrt()
    # Of the first token, on which little depends, nothing is asked.
    M = S.float().T @ found["K"][1:] @ S.float()
    # An orthogonal turn makes F, as the final norm's input sees it, diagonal.
    at_norm = torch.linalg.eigh(S.T @ (found["Jn"] @ found["Jn"].T).double() @ S)[1].flip(1)
    score = torch.diagonal(M, dim1=1, dim2=2).sum(1)
    return {
        "M": M,
        "score": score,
        "values": values.float(),
        "rows": (found["rows"].double() @ (U / values.sqrt())).float(),
        "norm": at_norm.float(),
        "S": S.float(),
        "K": (found["K"][1:] / score[:, None, None]).mean(0),
        "mean": (M / score[:, None, None]).mean(0),
    }


def _errors(found: list[dict[str, Tensor]]) -> Iterator[tuple[str, int, list[float]]]:
    """Of each way and number of passes: the relative standard error, median over tokens, of each prompt."""
    each: dict[tuple[str, int], list[float]] = {}
    for i, m in enumerate(tqdm(found, desc="estimators")):
        others = torch.stack([o["K"] for j, o in enumerate(found) if j != i]).mean(0)
        ways = _ways(m, others)
        for n in PASSES:
            for what, variance in ways.items():
                splits = [variance(k, n - k) for k in sorted({0, n // 4, n // 2, 3 * n // 4})]
                least = min(_relative(m, v) for v in splits)
                each.setdefault((what, n), []).append(least)
            each.setdefault(("head and nudges", n), []).append(_relative(m, _nudged(m, n)))
            each.setdefault(("XTrace", n), []).append(_relative(m, _xtrace(m, n)))
    yield from ((what, n, errors) for (what, n), errors in each.items())


def _ways(m: dict[str, Tensor], others: Tensor) -> dict[str, Callable[[int, int], Tensor]]:
    """Variances of ways that take k exact directions and s samples. `others`: the mean `K` of other prompts."""
    bases = {
        "norm": m["norm"],
        "others": torch.linalg.eigh((m["S"].T @ others @ m["S"]).double())[1].flip(1).float(),
        "best": torch.linalg.eigh(m["mean"].double())[1].flip(1).float(),
    }
    turned = {name: Q.T @ m["M"] @ Q for name, Q in bases.items()}
    return {
        TODAY: lambda k, s: _token_signs(m, k) / s,
        "the same, normal": lambda k, s: _normal(m["M"], k) / s,
        "the same, orthogonal": lambda k, s: _orthogonal(m["M"], k, s),
        "the same, ||g||^2 as control": lambda k, s: _controlled(m, k) / s,
        "the same, signs of eigenvectors": lambda k, s: _signs(m["M"], k) / s,
        "the same, each eigenvector in one sample": lambda k, s: _grouped(m["M"], k, s),
        "eigenvectors of F before the final norm": lambda k, s: _signs(turned["norm"], k) / s,
        "head from other prompts": lambda k, s: _normal(turned["others"], k) / s,
        "best head there is": lambda k, s: _normal(turned["best"], k) / s,
    }


def _relative(m: dict[str, Tensor], variance: Tensor) -> float:
    return float((variance.clamp_min(0).sqrt() / m["score"]).median())


def _squares(M: Tensor) -> Tensor:
    return M.square().sum((1, 2))


def _diagonal(M: Tensor) -> Tensor:
    return torch.diagonal(M, dim1=1, dim2=2)


def _normal(M: Tensor, k: int) -> Tensor:
    """Variance of one normal sample beyond the first k directions."""
    return 2 * _squares(M[:, k:, k:])


def _signs(M: Tensor, k: int) -> Tensor:
    return _normal(M, k) - 2 * _diagonal(M)[:, k:].square().sum(1)


def _token_signs(m: dict[str, Tensor], k: int) -> Tensor:
    """Of Rademacher signs a token: its own square does not vary."""
    rows = m["rows"][:, k:]
    own = ((rows @ m["M"][:, k:, k:]) * rows).sum(2)
    return _normal(m["M"], k) - 2 * own.square().sum(1)


def _orthogonal(M: Tensor, k: int, s: int) -> Tensor:
    """s directions at right angles, uniformly distributed."""
    d, trace = M.shape[1] - k, _diagonal(M)[:, k:].sum(1)
    share = 2 * d * (d - s) / (s * (d - 1) * (d + 2))
    return share * (_squares(M[:, k:, k:]) - trace.square() / d)


def _controlled(m: dict[str, Tensor], k: int) -> Tensor:
    """Normal samples less the best multiple of `||g||^2 - tr F`."""
    values = m["values"][k:]
    shared = (_diagonal(m["M"])[:, k:] * values).sum(1).square() / values.square().sum()
    return _normal(m["M"], k) - 2 * shared


def _grouped(M: Tensor, k: int, s: int) -> Tensor:
    """Eigenvectors dealt out to s samples, with a sign each."""
    hands = [M[:, k + i :: s, k + i :: s] for i in range(s)]
    return sum((_signs(hand, 0) for hand in hands), torch.zeros(len(M)))


def _nudged(m: dict[str, Tensor], n: int) -> Tensor:
    """A quarter each: eigenvectors of F back to the tokens; forward passes with the tokens nudged that way,
    each by its score so far; backward passes for what these add to the span; normal samples beyond it."""
    k, M = n // 4, m["M"]
    weights = 1 / _diagonal(M)[:, :k].sum(1)
    moved = (M[:, :, :k] * weights[:, None, None]).mean(0)
    span = torch.cat(
        [torch.eye(*moved.shape, dtype=M.dtype), moved / torch.linalg.vector_norm(moved)], 1
    )
    Q = torch.linalg.qr(span.double())[0].to(M.dtype)
    MQ = M @ Q
    beyond = _squares(M) - 2 * _squares(MQ) + _squares(Q.T @ MQ)
    return 2 * beyond / (n - 3 * k)


def _xtrace(m: dict[str, Tensor], n: int) -> Tensor:
    """XTrace on one matrix for all tokens, their mean: n / 3 samples take a backward pass, a forward pass
    that is nudged, and a backward pass again. Mean squared error over draws."""
    M, d, r = m["M"].double(), m["M"].shape[1], n // 3
    mean = m["mean"].double()
    errors = []
    for _ in range(_DRAWS):
        drawn = torch.randn(d, r, dtype=M.dtype)
        basis = torch.linalg.qr(mean @ drawn)[0]
        both = torch.cat([basis, drawn], 1)
        G = both.T @ (M @ both)
        within, images = basis.T @ drawn, basis.T @ mean @ drawn
        total = torch.zeros(len(M), dtype=M.dtype)
        for i in range(r):
            B = torch.linalg.qr(images[:, torch.arange(r) != i])[0]
            span = torch.cat([B, B.new_zeros(r, B.shape[1])])
            mine = B.T @ within[:, i]
            rest = torch.cat([-B @ mine, torch.eye(r, dtype=M.dtype)[i]])
            size = drawn[:, i].square().sum() - mine.square().sum()
            total += ((G @ span) * span).sum((1, 2))
            total += (d - B.shape[1]) / size * ((G @ rest) @ rest)
        errors.append((total / r - m["score"]).square())
    return torch.stack(errors).mean(0).float()


def _print(rows: list[dict[str, Any]]) -> None:
    console = Console()
    for name in dict.fromkeys(row["model"] for row in rows):
        table = Table(title=name, title_justify="left")
        for heading in ("what", *(f"{n} passes" for n in PASSES)):
            table.add_column(heading)
        own = {(r["what"], r["passes"]): r["errors"] for r in rows if r["model"] == name}
        for what in dict.fromkeys(what for what, _ in own):
            cells = []
            for n in PASSES:
                gains = [a / b for a, b in zip(own[TODAY, n], own[what, n])]
                cells.append(
                    f"{statistics.median(own[what, n]):.3f}, gain {statistics.median(gains):.2f} "
                    f"({min(gains):.2f} to {max(gains):.2f})"
                )
            table.add_row(what, *cells)
        console.print(table)
    console.print(
        "Relative standard error, median over tokens and prompts; gain: today's error over it, median and "
        "range over prompts. Each at its best share of exact directions, a quarter, half, three quarters or "
        "none; head and nudges at a quarter."
    )
