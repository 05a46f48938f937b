"""The Python that computes and draws the same, to copy."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from tl_scopes.app.conversation import SCOPES, Conversation, Reply
from tl_scopes.app.request import Request, View, sites_of
from tl_scopes.app.settings import Settings
from tl_scopes.baselines import named


def python(request: Request, view: View, settings: Settings) -> str:
    """A script that makes what the page shows: `found`, and the files it offers for download.

    Texts are Python literals, whatever they hold.
    """
    arguments = [
        "model",
        repr(request.prompt),
        _scope(request),
        f"sites={request.to_sites()!r}",
        *([f"position={request.position}"] if request.position != -1 else []),
    ]
    make = named.maker(request.scope)
    drawn = "".join(f", {name}={value!r}" for name, value in view.options().items())
    options = drawn.removeprefix(", ")
    site = f"site={view.site!r}, " if view.site else ""
    return "\n".join(
        [
            "import tl_scopes as ts",
            *([f"from {make.__module__} import {make.__name__}"] if _is_own(make) else []),
            "",
            f"model = ts.models.load({_loaded(request.model, settings)})",
            "found = ts.attribute(",
            *(f"    {argument}," for argument in arguments),
            ")",
            f"found.print({site}{options})".replace(", )", ")"),
            f'found.to_html("scope.html"{drawn})',
            f'found.plot({options}).savefig("scope.png", dpi=150)',
            "",
        ]
    )


def talk(asked: Conversation, reply: Reply, settings: Settings) -> str:
    """A script that lets the model write the same answer, and makes the page that shows it."""
    scope = repr(SCOPES[asked.scope])
    lines = [
        "import tl_scopes as ts",
        "",
        f"model = ts.models.load({_loaded(asked.model, settings)})",
        "answer = ts.attribute_generation(",
        "    model,",
        f"    {reply.prompt!r},",
        f"    ts.{scope.replace('NEXT_TOKEN', 'ts.NEXT_TOKEN')},",
        f"    max_new_tokens={asked.length},",
        f"    temperature={asked.temperature},",
        f"    seed={asked.seed},",
        f"    sites={sites_of(asked.sites)!r},",
        ")",
        'answer.to_html("conversation.html")',
        "",
    ]
    return "\n".join(lines)


def _scope(request: Request) -> str:
    """The call that makes the scope; targets stand first, where it takes them first."""
    make, taken, options = named.maker(request.scope), named.takes(request.scope), request.options()
    targets = [option for option in ("continuation", "target", "versus") if option in taken]
    parameters = inspect.signature(make).parameters
    first = list(parameters)[: len(targets)]
    parts = []
    for option, value in options.items():
        if value is None and parameters[taken[option]].default is None:
            continue
        bare = option in targets and first == [taken[each] for each in targets]
        parts.append(repr(value) if bare else f"{taken[option]}={value!r}")
    return f"{'' if _is_own(make) else 'ts.'}{make.__name__}({', '.join(parts)})"


def _is_own(make: Callable[..., Any]) -> bool:
    """Whether a scope is the user's: it comes from where it was written."""
    return not make.__module__.startswith("tl_scopes.")


def _loaded(name: str, settings: Settings) -> str:
    options = {option: getattr(settings, option) for option in ("backend", "dtype", "device")}
    given = [f"{k}={value!r}" for k, value in options.items() if value != getattr(Settings, k)]
    return ", ".join([repr(name), *given])
