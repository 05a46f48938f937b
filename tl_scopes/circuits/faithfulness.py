"""How much of a behaviour circuits of growing size keep, in real runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tl_scopes.circuits.judging.candidates import Candidates, Scores
from tl_scopes.circuits.judging.curves import Curves, Sizes
from tl_scopes.circuits.judging.judge import about, check_mean, judge_of, scores_of, units
from tl_scopes.circuits.judging.node_runs import Ablation
from tl_scopes.circuits.judging.store import opened
from tl_scopes.circuits.pairs.pairs import Pairs
from tl_scopes.errors import ScopeParameterError, check_choice, check_seed, check_whole
from tl_scopes.results.circuit import Circuit
from tl_scopes.results.faithfulness import Faithfulness

SIZES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


def faithfulness(
    model: Any,
    pairs: Pairs,
    scores: Scores | Circuit,
    sizes: Sequence[float | int] = SIZES,
    ablation: Ablation = "corrupted",
    *,
    random: int = 10,
    exact: bool = False,
    seed: int = 0,
    out: str | Path | None = None,
    progress: bool | None = None,
) -> Faithfulness:
    """Run circuits of several sizes alone, and say how much of what is explained each of them keeps.

    A circuit of n nodes or edges is the n strongest by `scores`, in magnitude, of which those that do
    not connect input and read are dropped, as in `select`. It is run on the clean prompt, with all that is
    not in it taken from elsewhere, and `f = (m - m(nothing)) / (m(all) - m(nothing))` with the scope's
    scalar m averaged over pairs: m(nothing) is the corrupted prompt and m(all) the clean one,
    whatever the ablation. A circuit of nothing, as a small share of few nodes may be, is the corrupted
    prompt; the embedding belongs to every other and costs nothing.

    Takes a forward pass for each pair and each circuit that is neither all nor nothing. Of edges every
    reader's own input comes to that, so passes of large circuits take about twice as long. Random circuits of
    less than about a hundredth of all edges are mostly empty once what does not connect is dropped, and
    take none.

    Args:
        model: the one that `scores` are of.
        pairs: what it is judged on; best other pairs than those that `scores` were found on.
        scores: `PairedComponents` or `Edges`; a dict of numbers by label, of every node or edge of the
            model; or a `Circuit`, which is judged at its own size alone.
        sizes: floats are shares of all nodes or edges (rounded down), ints numbers of them.
        ablation: what is written by what is not in the circuit: what it writes on the pair's
            `"corrupted"` prompt, its `"mean"` over all corrupted prompts and their positions (BOS left
            out; nodes only), or `"zero"` (nodes only).
        random: how many random orders are judged beside it, each at every size.
        exact: whether nodes are also ordered by the change of m when each alone is taken away: a run a
            node and pair, on these same pairs.
        seed: of the random orders.
        out: a folder in which finished pairs are kept: killed at any moment and called again with the
            same arguments, it goes on, and gives the same numbers. None: nothing is kept.
        progress: a bar on stderr. Default: where stderr is a terminal.

    Returns:
        `Faithfulness`.

    Raises:
        NumericalError: where m is the same on clean and corrupted prompts, with the pairs' numbers: f
            is undefined.
        ScopeParameterError: for scores of another model (labels that it lacks, or that are lacking), and
            sizes, ablations or numbers that cannot be.
        NonAdditiveError: where what the nodes write does not add up to the stream.
        RunError: for a folder that holds a run with anything else.
        ScopesError: as `components`.

    Source: faithfulness, CPR and CMD of MIB, arXiv 2504.13151, whose sizes are the default.

    Examples:
        >>> judged = faithfulness(model, pairs, components(model, pairs))
        >>> judged.cpr, judged.interval("cpr")
    """
    if not isinstance(pairs, Pairs):
        raise ScopeParameterError(
            f"pairs is a {type(pairs).__name__}; allowed: circuits.Pairs(clean, corrupted, scope)"
        )
    check_choice("ablation", ablation, ("corrupted", "mean", "zero"))
    check_choice("exact", exact, (False, True))
    check_whole("random", random, 0)
    check_seed(seed)
    parts = units(pairs.batches(model))
    if isinstance(scores, Circuit):
        count = len(scores)
        sizes, scores = (count,), scores_of(parts, scores)
    candidates = Candidates.told(scores)
    if exact and candidates.of == "edges":
        raise ScopeParameterError(
            "exact=True patches nodes one by one, and these scores are of edges: drop it, or score nodes"
        )
    wanted = Sizes.parsed(sizes, len(candidates), candidates.of)
    judge = judge_of(parts, candidates, ablation)
    curves = Curves(candidates, wanted, random, seed)
    settings = {"ablation": ablation, "random": random, "exact": exact, "seed": seed}
    with opened(model, judge, curves, 1 + exact, settings, out, progress) as store:
        if exact:
            without = ~torch.eye(len(candidates), dtype=torch.bool, device="cpu")
            alone = store.measured([f"without {label}" for label in candidates.labels], without)
            effects = (alone.clean[:, None] - alone.circuits).mean(0)
            curves.add("exact", effects.abs().argsort(descending=True, stable=True))
        found = store.measured(curves.names, curves.masks)
    check_mean(parts[0], found)
    of_curve = curves.split(found.circuits.float())
    drawn = [of_curve[f"random {i}"] for i in range(random)]
    nothing = found.circuits.new_zeros(0, len(pairs), len(wanted.counts))
    return Faithfulness(
        of=candidates.of,
        ablation=ablation,
        candidates=len(candidates),
        sizes=wanted.counts,
        shares=wanted.shares,
        kept=curves.kept("scores"),
        metrics=of_curve["scores"],
        clean=found.clean.float(),
        corrupted=found.corrupted.float(),
        random=torch.stack(drawn) if drawn else nothing,
        exact=of_curve.get("exact"),
        **about(parts),
    )
