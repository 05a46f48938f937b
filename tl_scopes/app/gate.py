"""Who may speak to the explorer: its own page, reached under a name of its own, in no foreign frame.

It stands before Streamlit, and is the only judge. Streamlit's own check of a foreign origin asks an
outside host for this machine's address; its pages may be framed by anybody.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import urllib.parse
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from tl_scopes.app.settings import AsText

LOCAL = ("localhost", "127.0.0.1", "::1")
_ORIGIN = re.compile(r"https?://[A-Za-z0-9._*:\[\]-]+")

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


@dataclass(frozen=True)
class Door(AsText):
    """`names`: host names under which the page is reached, without ports; `numbers`: whether any address
    in numbers will do too. `given`: names of a proxy before, which may tell another. `framed_by`: origins
    that may show the page in a frame."""

    names: tuple[str, ...] = LOCAL
    numbers: bool = False
    given: tuple[str, ...] = ()
    framed_by: tuple[str, ...] = ()

    @classmethod
    def of(cls, host: str, local: bool, names: tuple[str, ...], framed_by: tuple[str, ...]) -> Door:
        """The door of a page that is served at the address `host`.

        A page elsewhere can take a name of its own to this machine, but not an address in numbers.
        Raises ValueError for what is no host name, or no origin.
        """
        if odd := [name for name in names if _name(name) is None]:
            raise ValueError(
                f"{odd[0]!r} is no name such as lab.example.org or lab.example.org:8443"
            )
        if wrong := [origin for origin in framed_by if not _ORIGIN.fullmatch(origin)]:
            raise ValueError(f"{wrong[0]!r} is no origin such as https://example.org")
        mine = socket.gethostname().lower()
        short = mine.split(".")[0]
        reached = () if local else (mine, short, f"{short}.local")
        given = tuple(map(_plain, names))
        hosts = [name for name in map(_name, names) if name is not None]
        every = tuple(dict.fromkeys((*LOCAL, _plain(host), *reached, *hosts)))
        return cls(every, not local, given, framed_by)

    def refusal(self, hosts: list[str], origins: list[str]) -> str | None:
        """Why a request with these Host and Origin headers is not answered; None if it is."""
        if len(hosts) != 1 or len(origins) > 1:
            return "one Host header is needed, and one Origin header at most"
        name = _name(hosts[0])
        if name is None or not (name in self.names or (self.numbers and _number(name))):
            return (
                f"this page is not served under the name {name or hosts[0]!r}: use the address that "
                "tl-scopes app said, or start it with --name and that name"
            )
        if origins:
            place = urllib.parse.urlsplit(origins[0])
            same = place.scheme in ("http", "https") and place.netloc.lower() == hosts[0].lower()
            if not same and place.netloc.lower() not in self.given:
                return f"a page of {origins[0]!r} may not speak to this one"
        return None

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """What browsers are told of every answer."""
        by = " ".join(self.framed_by) or "'none'"
        policy = (b"content-security-policy", f"frame-ancestors {by}".encode())
        return [policy] if self.framed_by else [policy, (b"x-frame-options", b"DENY")]


class Gate:
    """An application of the ASGI standard before another one."""

    def __init__(self, app: Callable[..., Awaitable[None]], door: Door) -> None:
        self._app, self._door = app, door

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind not in ("http", "websocket"):
            return await self._app(scope, receive, send)
        why = self._door.refusal(_values(scope, b"host"), _values(scope, b"origin"))
        if why is None:
            # Judged already: Streamlit must not judge it again.
            rest = [(name, value) for name, value in scope["headers"] if name != b"origin"]
            return await self._app({**scope, "headers": rest}, receive, self._told(send))
        if kind == "websocket":  # before it is accepted, the server answers 403
            return await send({"type": "websocket.close", "code": 1008, "reason": ""})
        plain = [(b"content-type", b"text/plain; charset=utf-8"), *self._door.headers]
        await send({"type": "http.response.start", "status": 403, "headers": plain})
        await send({"type": "http.response.body", "body": f"{why}\n".encode()})

    def _told(self, send: Send) -> Send:
        async def told(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", ()), *self._door.headers]
                message = {**message, "headers": headers}
            await send(message)

        return told


def _values(scope: dict[str, Any], wanted: bytes) -> list[str]:
    return [value.decode("latin-1") for name, value in scope["headers"] if name == wanted]


def _name(netloc: str) -> str | None:
    """The host of `host:port`, None where it is none."""
    try:
        parts = urllib.parse.urlsplit(f"//{netloc}")
        _ = parts.port
    except ValueError:
        return None
    odd = parts.username is not None or parts.path or parts.query or parts.fragment
    return _plain(parts.hostname) if parts.hostname and not odd else None


def _plain(name: str) -> str:
    return name.lower().rstrip(".")


def is_local(host: str) -> bool:
    """Whether this machine alone reaches the address `host`."""
    number = _number(host)
    return host == "localhost" or (number is not None and number.is_loopback)


def _number(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that `name` writes in numbers, None where it is a name."""
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None
