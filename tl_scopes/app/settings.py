"""What whoever starts the explorer decides, for everybody who opens it."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tl_scopes.errors import ModelUnavailableError
from tl_scopes.models import DEFAULT_MODEL, available

if TYPE_CHECKING:
    from typing_extensions import Self

MAX_TOKENS = 2000


@dataclass(frozen=True)
class AsText:
    """What the command hands to the page's script, as an argument: fields of plain values and tuples."""

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What `to_json` wrote."""
        plain: dict[str, Any] = json.loads(text)
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in plain.items()})


@dataclass(frozen=True)
class Settings(AsText):
    """Settings of one process.

    `models`: what the page offers, the first one chosen; empty: the bundled models that are installed.
    `naming`: whether people may name other models. `backend`, `dtype`, `device`: as in
    `tl_scopes.models.load`. `max_tokens`: longest prompt, BOS included. `held`: models kept in memory.
    """

    models: tuple[str, ...] = ()
    naming: bool = False
    backend: str = "auto"
    dtype: str = "float32"
    device: str | None = None
    max_tokens: int = MAX_TOKENS
    held: int = 2

    @property
    def offered(self) -> tuple[str, ...]:
        """The models to choose from, without repetition; the first is the default."""
        ready = tuple(state.name for state in available() if state.ready)
        return tuple(dict.fromkeys(self.models or ready or (DEFAULT_MODEL,)))

    def check_model(self, name: str) -> None:
        """Raises `ModelUnavailableError` for a model that may not be named here."""
        if name in self.offered or (self.naming and name):
            return
        raise ModelUnavailableError(
            f"the model {name!r} is not offered here; there are {', '.join(self.offered)}: choose one, "
            "or start tl-scopes app with --model NAME"
        )
