"""Scopes and methods by name: what the command line, the explorer and data runs offer.

A name stands for a class, or for any function that makes a scope or a method. What it takes follows
from its parameters. Those of a package of yours join by `register`, or by an entry point of the group
`tl_scopes.methods`, which needs no import:

    [project.entry-points."tl_scopes.methods"]
    margin = "my_package.scopes:MarginScope"
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, TypeVar

from tl_scopes.errors import ScopeParameterError

GROUP = "tl_scopes.methods"
# What the options of the command line are called, and the parameters that they may set.
OPTIONS = ("continuation", "target", "versus", "rank", "samples", "seed")

_Make = TypeVar("_Make", bound=Callable[..., Any])
_known: dict[str, Any] = {
    "semantic": "tl_scopes.scopes.prediction:SemanticScope",
    "logit-difference": "tl_scopes.scopes.prediction:LogitDifferenceScope",
    "continuation": "tl_scopes.scopes.continuation:ContinuationScope",
    "temperature": "tl_scopes.scopes.prediction:TemperatureScope",
    "fisher": "tl_scopes.scopes.prediction:FisherScope",
    "entropy": "tl_scopes.scopes.custom:entropy",
    "gradient-norm": "tl_scopes.baselines.gradients:GradientNorm",
    "input-x-gradient": "tl_scopes.baselines.gradients:InputXGradient",
    "integrated-gradients": "tl_scopes.baselines.paths:IntegratedGradients",
    "ig-published": "tl_scopes.baselines.paths:published",
    "semantic-path": "tl_scopes.baselines.paths:SemanticPath",
    "smoothgrad": "tl_scopes.baselines.gradients:SmoothGrad",
    "leave-one-out": "tl_scopes.baselines.leave_one_out:LeaveOneOut",
    "attention-rollout": "tl_scopes.baselines.rollout:AttentionRollout",
    "random": "tl_scopes.baselines.random:Random",
}


def register(make: _Make, name: str | None = None) -> _Make:
    """Give a scope or a method of your own a name on the command line and in the explorer.

    Args:
        make: a subclass of `Scope` or `baselines.Method`, or a function that makes one. A parameter
            called `target`, `rank`, `samples` or `seed` is set by the option of that name. The
            parameter that its attribute `argument` names is set by what follows a colon, as in
            `fisher:4`. Its attribute `asks` is the question that the explorer shows.
        name: default: the class's `name`, with dashes.

    Returns `make`, so that it is a decorator. Raises `ScopeParameterError` for a name that is taken.

        >>> @tl_scopes.register
        ... @dataclass(frozen=True)
        ... class MarginScope(tl_scopes.Scope):
        ...     name = "margin"
    """
    name = str(name or getattr(make, "name", make.__name__)).lower().replace("_", "-")
    if _known.get(name, make) is not make:
        raise ScopeParameterError(f"the name {name!r} is taken by {_known[name]}: give another")
    _known[name] = make
    return make


def names() -> list[str]:
    """All names, the package's own first."""
    return [*_known, *(name for name in _installed() if name not in _known)]


def maker(name: str) -> Callable[..., Any]:
    """What the name stands for. Raises `ScopeParameterError` for one that nothing is called."""
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=3, cutoff=0.4)
        hint = f"; close: {', '.join(near)}" if near else ""
        raise ScopeParameterError(f"no method is called {name!r}{hint}. All: {', '.join(names())}")
    place = _known.get(name) or _installed()[name]
    if not isinstance(place, str):
        return place
    module, attribute = place.split(":")
    return getattr(import_module(module), attribute)


def takes(name: str) -> dict[str, str]:
    """Which of `OPTIONS` the name takes, and the parameters that they set. A `continuation` that sets another
    parameter does so as a `ContinuationScope`, to which `versus` then belongs."""
    make = maker(name)
    renamed: Mapping[str, str] = getattr(make, "options", {})
    parameters = inspect.signature(make).parameters
    each = {option: renamed.get(option, option) for option in OPTIONS}
    return {option: parameter for option, parameter in each.items() if parameter in parameters}


def made(text: str, options: Mapping[str, Any]) -> Any:
    """The scope or method that `text` names, as `fisher` or `fisher:4`, with those of `options` set
    that are not None and that it takes. Raises `ScopeParameterError`."""
    name, colon, value = text.partition(":")
    make = maker(name)
    argument = getattr(make, "argument", "")
    if colon and not argument:
        raise ScopeParameterError(f"{text!r}: {name} takes nothing after a colon; drop {value!r}")
    if colon and not value:
        raise ScopeParameterError(
            f"{text!r} ends in a colon; give a value for {argument}, or drop it"
        )
    given, taken = {}, takes(name)
    answer = options.get("continuation")
    if answer is not None and taken.get("continuation", "continuation") != "continuation":
        if options.get("target") is not None:
            raise ScopeParameterError(
                "both target and continuation say what is explained: drop one"
            )
        whole = maker("continuation")(answer, options.get("versus"))
        options = {**options, "continuation": whole}
    for option, parameter in taken.items():
        if colon and parameter == argument:
            continue
        required = inspect.signature(make).parameters[parameter].default is inspect.Parameter.empty
        if required and option not in options:
            raise ScopeParameterError(
                f"{name} needs {option}, which nothing says here: use another"
            )
        if required or options.get(option) is not None:
            given[parameter] = options[option]
    return make(**given | ({argument: number(value)} if colon else {}))


def number(text: str) -> int | float | str:
    """The number that `text` writes; `text` itself where it writes none."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


@cache
def _installed() -> dict[str, str]:
    return {point.name: point.value for point in entry_points(group=GROUP)}
