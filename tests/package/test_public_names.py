"""What is public stays, or is changed on purpose: names, signatures and options are those of public_names.txt.

The command that makes the file anew, from the package as it is:

    python tests/package/test_public_names.py

Add what changed for users to CHANGELOG.md; docs/pages/public.md says what may change when.
"""

from __future__ import annotations

import difflib
import enum
import importlib
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_type_hints

MODULES = [
    "",
    ".models",
    ".baselines",
    ".circuits",
    ".circuits.tasks",
    ".evaluation",
    ".render",
    ".rules",
    ".errors",
]
LIST = Path(__file__).with_name("public_names.txt")


def public_lines() -> Iterator[str]:
    """One line for each name; what belongs to a class or a command stands below it, indented."""
    for suffix in MODULES:
        module = importlib.import_module(f"tl_scopes{suffix}")
        yield f"[tl_scopes{suffix}]"
        for name in listed_names(module):
            yield from described(name, getattr(module, name))
        yield ""
    yield "[tl-scopes]"
    yield from commands()


def listed_names(module: Any) -> list[str]:
    """`__all__`, or the exceptions and warnings of a module without one: errors."""
    if names := getattr(module, "__all__", None):
        return sorted(names)
    return sorted(n for n, v in vars(module).items() if n[0] != "_" and is_error(v))


def is_error(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, Exception)


def public_bases(value: type) -> list[type]:
    """Classes of the list that `value` extends, the nearest first."""
    modules = [importlib.import_module(f"tl_scopes{suffix}") for suffix in MODULES]
    listed = {
        getattr(module, name)
        for module in modules
        for name in listed_names(module)
        if name[0].isupper()
    }
    return [base for base in value.__mro__[1:] if base in listed]


def described(name: str, value: Any) -> Iterator[str]:
    if not isinstance(value, type):
        yield (
            f"{name}{signature(value)}" if inspect.isroutine(value) else f"{name}: {default(value)}"
        )
    elif is_error(value):
        yield f"{name}({', '.join(base.__name__ for base in value.__bases__)})"
    else:
        bases = public_bases(value)
        yield f"{name}{signature(value)}" + (f" is a {bases[0].__name__}" if bases else "")
        inherited = {line for base in bases for line in members(base)}
        yield from (line for line in members(value) if line not in inherited)


def members(value: type) -> Iterator[str]:
    """Methods and properties that our classes define; those of object, ABC and the like are theirs."""
    for name in sorted(n for n in dir(value) if not n.startswith("_")):
        owner = next(c for c in value.__mro__ if name in vars(c))
        member = vars(owner)[name]
        if not owner.__module__.startswith("tl_scopes"):
            continue
        if isinstance(member, property):
            yield f"    .{name} (property)"
        elif inspect.isroutine(member):
            yield f"    .{name}{signature(getattr(value, name))}"


def signature(value: Callable[..., Any]) -> str:
    """Annotations as the source has them: a file that moves changes nothing here."""
    parts, keywords_began = [], False
    found = inspect.signature(value)
    for p in found.parameters.values():
        if p.kind is p.VAR_POSITIONAL:
            keywords_began = True
        elif p.kind is p.KEYWORD_ONLY and not keywords_began:
            parts.append("*")
            keywords_began = True
        stars = {p.VAR_POSITIONAL: "*", p.VAR_KEYWORD: "**"}.get(p.kind, "")
        text = f"{stars}{p.name}" + (
            f": {annotation(p.annotation)}" if p.annotation is not p.empty else ""
        )
        parts.append(text if p.default is p.empty else f"{text} = {default(p.default)}")
    returned = found.return_annotation
    arrow = "" if returned in (found.empty, None, "None") else f" -> {annotation(returned)}"
    return f"({', '.join(parts)}){arrow}"


def annotation(value: Any) -> str:
    text = value if isinstance(value, str) else getattr(value, "__name__", repr(value))
    return text.strip("'\"")


def default(value: Any) -> str:
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, type) or inspect.isroutine(value):
        return value.__name__
    assert " at 0x" not in repr(value), f"{value!r} differs from run to run: give it a name"
    return repr(value)


def commands() -> Iterator[str]:
    import typer

    from tl_scopes.cli.main import app

    group: Any = typer.main.get_command(app)
    for name, command in sorted(group.commands.items()):
        yield f"tl-scopes {name}"
        kinds = get_type_hints(command.callback)
        for p in command.params:
            argument = p.param_type_name == "argument"
            names = p.metavar or p.name if argument else ", ".join((*p.opts, *p.secondary_opts))
            kind = kinds[p.name]
            text = kind.__name__ if isinstance(kind, type) else str(kind)
            text = text.replace("typing.", "").replace("pathlib.", "")
            yield f"    {names}: {text}{'' if p.required else f' = {p.default!r}'}"


def test_what_is_public_is_what_the_list_says() -> None:
    listed, real = LIST.read_text(encoding="utf-8").splitlines(), list(public_lines())
    changes = [
        line
        for line in difflib.unified_diff(listed, real, "listed", "real", lineterm="", n=0)
        if not line.startswith("@@")
    ]
    assert not changes, (
        "what users rely on changed:\n"
        + "\n".join(changes)
        + f"\nIf that is meant: python tests/package/{Path(__file__).name}, and say it in CHANGELOG.md"
    )


def test_a_new_option_and_a_lost_default_are_seen() -> None:
    """The list can tell: the same function with one default less, and one with a parameter more."""

    def given(prompt: str, *, sites: str = "embed") -> None: ...
    def without(prompt: str, *, sites: str) -> None: ...
    def more(prompt: str, *, sites: str = "embed", position: int = -1) -> None: ...

    assert signature(given) == "(prompt: str, *, sites: str = 'embed')"
    assert len({signature(f) for f in (given, without, more)}) == 3


if __name__ == "__main__":
    LIST.write_text("\n".join(public_lines()) + "\n", encoding="utf-8")
