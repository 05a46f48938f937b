"""Everything that is known to tell a circuit from a list of names, in one call."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Union

from tl_scopes.circuits.components import components
from tl_scopes.circuits.edges import edges
from tl_scopes.circuits.faithfulness import SIZES, faithfulness
from tl_scopes.circuits.pairs.pairs import Pairs
from tl_scopes.circuits.stability import bootstrap
from tl_scopes.errors import ScopeParameterError, check_choice, check_seed, check_whole
from tl_scopes.evaluation.methods import labelled
from tl_scopes.results.circuit_card import CircuitCard
from tl_scopes.scopes.base import Scope, check_is_scope

Scopes = Union[Sequence[Scope], Mapping[str, Scope]]


def circuit_card(
    model: Any,
    pairs: Pairs,
    scopes: Scopes | None = None,
    *,
    paraphrases: Mapping[str, Pairs] | None = None,
    judge: Pairs | None = None,
    k: int = 10,
    sizes: Sequence[float | int] = SIZES,
    steps: int = 1,
    by: Literal["head", "mlp"] = "head",
    random: int = 10,
    seed: int = 0,
    out: str | Path | None = None,
    progress: bool | None = None,
) -> CircuitCard:
    """What a model does on some pairs, which nodes and edges carry it, how much circuits of them keep, and
    whether other pairs would tell of the same ones.

    Args:
        model: a HookedTransformer or TransformerBridge.
        pairs: clean and corrupted prompts. The scalar of their own scope is the metric by which all
            circuits are judged.
        scopes: others by which nodes and edges are found too, in a list or in a dict by label.
        paraphrases: other prompts for the same, by name (another template, another corruption): are the
            largest nodes and edges the same there?
        judge: the pairs that circuits are judged on; None: those they were found on, which flatters.
        k: how many of the largest nodes and edges are shown and compared.
        sizes, random: of circuits, and how many random orders stand beside them: as in `faithfulness`. Two
            sizes or more.
        steps, by: as in `edges`.
        seed: of resamples and random orders.
        out: a folder in which finished runs of circuits are kept, as in `faithfulness`: called again with
            the same arguments the card goes on.
        progress: a bar on stderr, which names the stage. Default: where stderr is a terminal.

    Returns:
        `CircuitCard`: `.to_frame()`, `.metrics()`, `.members()`, `.curve()`, `.stability()`, `.to_html()`,
        `.to_markdown()`, `.plot(kind)`, `.save(path)`.

    Raises:
        NumericalError: where the metric is the same on clean and corrupted prompts.
        ScopeParameterError: for fewer than two pairs in any of the sets, a single size, or arguments that
            cannot be.
        ScopesError: as `components`, `edges` and `faithfulness`.

    Examples:
        >>> pairs = circuits.tasks.agreement(model, n=200)
        >>> card = circuits.circuit_card(model, pairs[:100], [ts.FisherScope()], judge=pairs[100:])
        >>> card.to_html("card.html")

    Sources: see `components`, `edges`, `faithfulness` and `bootstrap`.
    """
    others = {"pairs": pairs} | ({} if judge is None else {"judge": judge})
    told = _paraphrases(paraphrases)
    for name, own in (others | {f"paraphrase {name!r}": own for name, own in told.items()}).items():
        if not isinstance(own, Pairs) or len(own) < 2:
            got = f"{len(own)} pair" if isinstance(own, Pairs) else f"a {type(own).__name__}"
            raise ScopeParameterError(
                f"{name} is {got}; allowed: circuits.Pairs of two or more, so that there are intervals"
            )
    check_choice("by", by, ("head", "mlp"))
    for name, count, least in (("k", k, 1), ("steps", steps, 1), ("random", random, 0)):
        check_whole(name, count, least)
    check_seed(seed)
    if isinstance(sizes, str) or not isinstance(sizes, Sequence) or len({*sizes}) < 2:
        raise ScopeParameterError(
            f"sizes is {sizes!r}; allowed: two or more, of which CPR is an area"
        )
    named = _named(pairs, scopes)
    judged = pairs if judge is None else judge
    sets = {"pairs": pairs, **told}
    parts: dict[str, list[Any]] = {
        f"{of}{what}": [] for of in ("node", "edge") for what in ("s", "_curves", "_stability")
    }
    paraphrased = []
    stages = len(named) * 2 * (len(sets) + 2)
    with _stages(stages, progress) as stage:
        for i, (name, scope) in enumerate(named.items()):
            for of in ("node", "edge"):
                found = []
                for each, own in sets.items():
                    stage(f"{of}s of {each} by {name}")
                    asked = own if scope is None else replace(own, scope=scope)
                    if of == "node":
                        found.append(components(model, asked, by=by))
                    else:
                        found.append(edges(model, asked, steps, by, progress=False))
                stage(f"circuits of {of}s by {name}")
                folder = None if out is None else _folder(out, f"{i}-{of}s")
                parts[f"{of}_curves"].append(
                    faithfulness(
                        model,
                        judged,
                        found[0],
                        sizes,
                        random=random,
                        seed=seed,
                        out=folder,
                        progress=False,
                    )
                )
                stage(f"stability of {of}s by {name}")
                parts[f"{of}_stability"].append(bootstrap(found, k=k, seed=seed, names=[*sets]))
                parts[f"{of}s"].append(found[0])
                if of == "node" and scope is None:
                    paraphrased = found[1:]
    settings = {"steps": steps, "by": by, "k": k, "random": random, "seed": seed, "sizes": [*sizes]}
    return CircuitCard(
        names=tuple(named),
        paraphrases=tuple(told),
        paraphrased=tuple(paraphrased),
        judged_apart=judge is not None,
        settings=settings,
        provenance=parts["nodes"][0].provenance,
        **{name: tuple(own) for name, own in parts.items()},
    )


def _folder(out: str | Path, name: str) -> Path:
    """Of one run of circuits, in a folder that is made if there is none."""
    whole = Path(out).expanduser()
    if not whole.exists():
        whole.mkdir(parents=True)
    return whole / name


def _paraphrases(given: Any) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not all(isinstance(n, str) and n for n in given):
        raise ScopeParameterError(
            f"paraphrases is {given!r}; allowed: a dict of circuits.Pairs by name"
        )
    if taken := {"pairs", "found on", "judged on"} & {*given}:
        raise ScopeParameterError(f"a paraphrase is called {min(taken)!r}: give it another name")
    return dict(given)


def _named(pairs: Pairs, scopes: Any) -> dict[str, Scope | None]:
    """Scopes by label; None for the pairs' own."""
    named: dict[str, Any] = {} if scopes is None else dict(labelled(scopes))
    for scope in named.values():
        check_is_scope(scope)
    own = pairs.scopes[0].name
    if own in named:
        raise ScopeParameterError(
            f"a scope is called {own!r}, as the pairs' own: give a dict with a label of yours"
        )
    return {own: None, **named}


@contextmanager
def _stages(total: int, progress: bool | None) -> Iterator[Any]:
    """A function that says which stage begins."""
    from tqdm import tqdm

    shown = sys.stderr.isatty() if progress is None else progress
    with tqdm(total=total, unit="stage", disable=not shown) as bar:
        begun = 0

        def stage(name: str) -> None:
            nonlocal begun
            bar.update(int(begun > 0))
            begun += 1
            bar.set_description(name)

        yield stage
        bar.update(int(begun > 0))
