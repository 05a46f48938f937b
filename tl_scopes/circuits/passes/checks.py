"""What `verify` is asked: a result, its prompt and its scope once more, and options."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from tl_scopes.circuits.passes.trace import CircuitRun
from tl_scopes.errors import PromptError, ScopeParameterError, check_choice, check_seed, check_whole
from tl_scopes.results.attribution import Attribution
from tl_scopes.results.circuits import Components
from tl_scopes.results.flows import Flow, HeadPaths
from tl_scopes.scopes.base import Scope
from tl_scopes.scopes.continuation import ContinuationScope
from tl_scopes.scopes.prediction import (
    FisherScope,
    LogitDifferenceScope,
    SemanticScope,
    TemperatureScope,
)

# Scopes of which a record holds all: that of a function, a direction or a user's own scope may not.
_RECORDED: dict[str, Any] = {
    kind.name: kind
    for kind in (
        SemanticScope,
        LogitDifferenceScope,
        TemperatureScope,
        FisherScope,
        ContinuationScope,
    )
}


def check_options(
    attribution: Any,
    by: Any,
    intervention: Any,
    corrupted: Any,
    counts: tuple[Any, ...],
    seed: Any,
) -> None:
    """Raises `ScopeParameterError`."""
    kinds = {"token": (Attribution, Flow, HeadPaths), "head": (Attribution, Components, HeadPaths)}
    check_choice("by", by, kinds)
    if not isinstance(attribution, kinds[by]):
        raise ScopeParameterError(
            f"by={by!r} takes {', '.join(c.__name__ for c in kinds[by])}, not "
            f"{type(attribution).__name__}: make one with tl_scopes.attribute or tl_scopes.circuits"
        )
    check_choice("intervention", intervention, ("zero", "mean", "pad", "corrupt", "likely"))
    if intervention in ("pad", "likely") and (by == "head" or token_site(attribution) != "embed"):
        raise ScopeParameterError(
            f'intervention="{intervention}" replaces token embeddings: use it with by="token" and an attribution '
            'at site "embed", or use "zero", "mean" or "corrupt"'
        )
    if (corrupted is not None) != (intervention == "corrupt"):
        raise ScopeParameterError(
            'intervention="corrupt" and corrupted=, a prompt of the same length, go together: give '
            "both or none"
        )
    for name, count, least in zip(("top", "random", "k", "draws"), counts, (0, 0, 1, 1)):
        check_whole(name, count, least)
    check_seed(seed)


def shares(steps: Any) -> tuple[float, ...]:
    """Steps of an intervention. Raises `ScopeParameterError`."""
    try:
        parts = tuple(float(step) for step in steps)
    except (TypeError, ValueError):
        parts = ()
    if not parts or not all(0 < step <= 1 for step in parts):
        raise ScopeParameterError(
            f"steps is {steps!r}; allowed: a list of shares of the intervention, above 0 and up to 1"
        )
    return parts


def check_prompt(attribution: Any, ids: list[int]) -> None:
    """Raises `PromptError` for other tokens than the attribution's."""
    explained = attribution.tokens.tolist()
    if explained != ids:
        differ = (t for t, (a, b) in enumerate(zip(explained, ids)) if a != b)
        at = next(differ, min(len(explained), len(ids)))
        raise PromptError(
            f"the prompt's {len(ids)} tokens are not the {len(explained)} of the attribution, from position "
            f"{at} on: give the prompt, and the prepend_bos, that it was made with"
        )


def check_scope(attribution: Any, prompt_run: CircuitRun) -> None:
    """Raises `ScopeParameterError` for another scope, or read position, than the attribution's."""
    if (
        prompt_run.scope.name != attribution.scope.name
        or prompt_run.position != attribution.position
    ):
        raise ScopeParameterError(
            f"the scope is {prompt_run.scope.name!r}, read at {prompt_run.position}, but the attribution is "
            f"of {attribution.scope}, read at {attribution.position}: give the scope it was made with"
        )


def scope_of(attribution: Any) -> Scope:
    """The scope that a result's record describes, on the targets that it had. `ScopeParameterError`."""
    info = attribution.scope
    kind = _RECORDED.get(info.name)
    targets = [] if kind is None else [t for t in kind.target_fields if t in info.parameters]
    if kind is None or (targets and attribution.target is None):
        raise ScopeParameterError(
            f"the attribution's record does not hold its scope ({info}): pass it again as scope="
        )
    given = {f.name: info.parameters[f.name] for f in fields(kind) if f.name in info.parameters}
    # A target that the prompt decided has its id beside it; the first one is the result's own.
    given |= {name: info.parameters.get(f"{name}_id", given[name]) for name in targets}
    if targets:
        given[targets[0]] = attribution.target.id
    return kind(**given)


def token_site(attribution: Any) -> str:
    """Where the tokens that it scores are."""
    return attribution.sites[0] if isinstance(attribution, Attribution) else attribution.site
