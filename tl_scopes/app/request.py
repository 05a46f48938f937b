"""What one person asks for: read from widgets or a link, checked, and written into a link again."""

from __future__ import annotations

import dataclasses
import re
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tl_scopes.adapter.sites import from_text
from tl_scopes.baselines import named
from tl_scopes.errors import (
    PositionError,
    RenderError,
    ScopeParameterError,
    ScopesError,
    check_choice,
)
from tl_scopes.scopes.base import Scope, target_from


def scopes() -> dict[str, str]:
    """The scopes that the page offers, each with the question that it answers."""
    questions = {name: getattr(named.maker(name), "asks", "") for name in named.names()}
    return {name: question for name, question in questions.items() if question}


MAX_RANK = 64
SCALES = ("linear", "log")
# Browsers and proxies cut longer addresses.
LONGEST_LINK = 8000
_WHOLE = re.compile(r"-?[0-9]{1,9}")


@dataclass(frozen=True)
class Request:
    """What is computed. Equal requests have equal answers.

    `target`, and for logit-difference `versus`: text that is one token, `id:1234`, or nothing for the
    top prediction. `continuation`, and its `versus`: text that follows the prompt. `rank`: of fisher, 1
    to 64. `sites`: `embed`, `all`, layers and hook names, commas between. `position`: the read position.
    """

    prompt: str
    model: str
    scope: str = "semantic"
    continuation: str = ""
    target: str = ""
    versus: str = ""
    rank: int = 4
    sites: str = "all"
    position: int = -1

    def check(self) -> None:
        """Raises the package's errors for what can be told without a model."""
        if not 1 <= self.rank <= MAX_RANK:  # whatever the scope: the page holds a field for it
            raise ScopeParameterError(
                f"rank is {self.rank}; allowed here: a whole number from 1 to {MAX_RANK} (more, "
                "shares and rank='full' from Python)"
            )
        self.to_scope()
        self.to_sites()

    @property
    def directions(self) -> int:
        """How many gradients the answer takes."""
        return self.rank if "rank" in named.takes(self.scope) else 1

    def to_scope(self) -> Scope:
        """The scope asked for. Raises `ScopeParameterError`."""
        if self.scope not in scopes():
            raise ScopeParameterError(
                f"there is no scope {self.scope!r} here; there are {', '.join(scopes())}: choose one"
            )
        return named.made(self.scope, self.options())

    def options(self) -> dict[str, Any]:
        """What the scope takes of the request, by the options of the command line."""
        taken, texts = named.takes(self.scope), {"target": self.target, "versus": self.versus}
        given: dict[str, Any] = {"rank": self.rank, "continuation": self.continuation}
        for name, text in texts.items():
            given[name] = text or None if "continuation" in taken else target_from(text, name)
        return {name: given[name] for name in taken if name in given}

    @property
    def text(self) -> str:
        """All that the model reads."""
        if "continuation" not in named.takes(self.scope):
            return self.prompt
        return self.prompt + max(self.continuation, self.versus, key=len)

    def to_sites(self) -> str | list[str | int]:
        """The sites as `attribute` takes them. Raises `SiteError`."""
        return sites_of(self.sites)


@dataclass(frozen=True)
class View:
    """How an answer is looked at. `site`: the label whose scores are shown; none: the first."""

    site: str = ""
    scale: str = "linear"
    include_bos: bool = False
    include_read: bool = True

    def check(self) -> None:
        check_choice("scale", self.scale, SCALES, error=RenderError)

    def options(self) -> dict[str, Any]:
        """What differs from the defaults of `tl_scopes.render.html`."""
        plain = {f.name: (getattr(self, f.name), f.default) for f in dataclasses.fields(self)[1:]}
        return {name: value for name, (value, default) in plain.items() if value != default}


def read(
    query: Mapping[str, str], default: Request
) -> tuple[Request, View, tuple[ScopesError, ...]]:
    """What a link asks for; anything that it leaves out, or gets wrong, is that of `default`.

    The errors say what was wrong. Unknown parameters are ignored: other pages add some.
    """
    errors: list[ScopesError] = []
    halves: dict[bool, Any] = {True: default, False: View()}
    for name, take in _READERS.items():
        if name in query:
            computed = name in _REQUEST
            try:
                changed = dataclasses.replace(halves[computed], **{name: take(query[name])})
                changed.check()
                halves[computed] = changed
            except ScopesError as error:
                errors.append(error)
    return halves[True], halves[False], tuple(errors)


def write(request: Request, view: View) -> dict[str, str]:
    """The query that `read` turns into the two again. What is computed is always said, so that a link
    outlives a change of defaults."""
    query = dataclasses.asdict(request)
    for name in ("continuation", "target", "versus", "rank"):
        if name not in named.takes(request.scope) or not query[name]:
            del query[name]
    usual = View()
    for name, value in dataclasses.asdict(view).items():
        if value != getattr(usual, name):
            query[name] = int(value) if isinstance(value, bool) else value
    return {name: str(value) for name, value in query.items()}


def link(base: str, query: Mapping[str, str]) -> str | None:
    """The address of `query`; None if it were too long for one."""
    address = f"{base}?{urllib.parse.urlencode(query, quote_via=urllib.parse.quote)}"
    return address if len(address) <= LONGEST_LINK else None


def sites_of(text: str) -> str | list[str | int]:
    """Sites as `attribute` takes them. Raises `SiteError`."""
    items = from_text(text)
    return str(items[0]) if items in (["all"], ["embed"]) else items


def whole_position(text: str) -> int:
    """A read position from text. Raises `PositionError`."""
    return _whole("position", text, PositionError, "a whole number; -1 is the last token")


def _whole(name: str, text: str, error: type[ScopesError], allowed: str) -> int:
    if not _WHOLE.fullmatch(text):
        raise error(f"{name} is {text!r}; give {allowed}")
    return int(text)


def _flag(name: str, text: str) -> bool:
    check_choice(name, text, ("0", "1"), error=RenderError)
    return text == "1"


_REQUEST = [field.name for field in dataclasses.fields(Request)]
_READERS = dict.fromkeys([*_REQUEST, "site", "scale"], str) | {
    "rank": lambda text: _whole("rank", text, ScopeParameterError, f"1 to {MAX_RANK}"),
    "position": whole_position,
    "include_bos": lambda text: _flag("include_bos", text),
    "include_read": lambda text: _flag("include_read", text),
}
