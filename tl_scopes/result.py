"""Results: scores with their labels, and everything needed to read or repeat them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, Union

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_scopes.errors import PositionError, ResultFileError, SiteError
from tl_scopes.escapes import isolated, literal
from tl_scopes.fields import Axis, Index, check_fields
from tl_scopes.files import in_utf8
from tl_scopes.records import (
    KINDS,
    Candidate,
    FisherInfo,
    Provenance,
    ScopeInfo,
    Stability,
    Token,
)
from tl_scopes.storage import plain, read_file, rebuilt, write_file

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


_R = TypeVar("_R", bound="Saved")


def _render() -> Any:
    # Drawing needs matplotlib, rich and circuitsvis: imported when first asked for.
    return import_module("tl_scopes.render")


@dataclass(frozen=True, eq=False, repr=False)
class Saved:
    """What every result can do: be written to a file and read again."""

    def save(self, path: str | Path) -> Path:
        """Write to one safetensors file (never pickle), atomically. Returns the path."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        tensors = {k: v for k, v in values.items() if isinstance(v, Tensor)}
        payload = {k: plain(v) for k, v in values.items() if k not in tensors}
        return write_file(path, type(self).__name__, tensors, payload)

    @classmethod
    def load(cls: type[_R], path: str | Path) -> _R:
        """Read what `save` wrote.

        Raises `ResultFileError` for a file that was changed or cut short, any other file, and fields
        that do not fit each other.
        """
        tensors, payload = read_file(path, cls.__name__)
        try:
            made = cls(**tensors, **{k: rebuilt(v, KINDS) for k, v in payload.items()})
            check_fields(made)
            return made
        except (TypeError, ValueError, LookupError, AttributeError, RecursionError) as error:
            raise ResultFileError(
                f"{path} does not describe a whole {cls.__name__} ({error}): save it again"
            ) from error


@dataclass(frozen=True, eq=False, repr=False)
class _Drawn(Saved):
    """Pictures over the tokens of a prompt, drawn by `tl_scopes.render` when asked."""

    def group(self, by: Any = "word", how: str | None = None) -> Any:
        """The same by words, sentences, lines or spans: see `tl_scopes.grouping.group`."""
        return import_module("tl_scopes.grouping").group(self, by, how)

    def to_html(self, path: str | Path | None = None, **options: Any) -> str:
        """One self-contained HTML page; written to `path` if given. Options: `tl_scopes.render.html`."""
        return _render().html(self, path, **options)

    def show(self, **options: Any) -> Any:
        """The notebook view. Options: `tl_scopes.render.html`."""
        return _render().notebook(self, **options)

    def plot(self, **options: Any) -> Figure:
        """A matplotlib figure. Options: `tl_scopes.render.figure`."""
        return _render().figure(self, **options)

    def print(self, **options: Any) -> None:
        """Coloured tokens in the terminal. Options: `tl_scopes.render.terminal`."""
        _render().terminal(self, **options)

    def _repr_html_(self) -> str:
        return _render().notebook(self).data


@dataclass(frozen=True, eq=False, repr=False)
class Attribution(_Drawn):
    """Influence of every token of one prompt on one explained quantity, at one or more sites.

    `scores[s, t]` is the influence of token `t` at `sites[s]`, in `units`; zero after the read
    `position`. `tokens` and `str_tokens` (texts as in `Token`) hold the whole prompt as it
    was fed, BOS included (`has_bos`). `target` is None for scopes without one. `standard_error` is there where the
    scores are a sampled estimate.
    """

    scores: Float[Tensor, "site pos"]
    sites: Annotated[tuple[str, ...], Axis("site")]
    tokens: Int[Tensor, "pos"]
    str_tokens: Annotated[tuple[str, ...], Axis("pos")]
    has_bos: bool
    position: Annotated[int, Index("pos")]
    scope: ScopeInfo
    target: Token | None
    units: str
    prediction: tuple[Candidate, ...]
    fisher: FisherInfo | None
    standard_error: Float[Tensor, "site pos"] | None
    provenance: Provenance
    stability: Stability | None = None

    def top(
        self,
        k: int = 5,
        site: int | str = 0,
        *,
        include_bos: bool = True,
        include_read: bool = True,
    ) -> list[tuple[int, str, float]]:
        """The `k` tokens with the highest scores at `site` as `(position, text, score)`.

        `site` is a label of `sites` or an index into it. `include_bos`, `include_read`: whether BOS,
        an attention sink, and the read position are counted like any other token (those after the
        read position are). Raises `SiteError` for a site that the result does not hold.
        """
        row = self.scores[site_index(self.sites, site)]
        order = torch.sort(row, descending=True, stable=True).indices.tolist()
        if self.has_bos and not include_bos:
            order.remove(0)
        if not include_read and self.position in order:
            order.remove(self.position)
        return [(t, self.str_tokens[t], float(row[t])) for t in order[: max(k, 0)]]

    def to_frame(self) -> pd.DataFrame:
        """Long-form pandas table: one row a site and token."""
        import pandas as pd

        n_site, n_pos = self.scores.shape
        columns: dict[str, Any] = {
            "site": [in_utf8(site) for site in self.sites for _ in range(n_pos)],
            "position": list(range(n_pos)) * n_site,
            "token_id": self.tokens.tolist() * n_site,
            "token": [in_utf8(text) for text in self.str_tokens] * n_site,
            "score": self.scores.flatten().tolist(),
        }
        if self.standard_error is not None:
            columns["standard_error"] = self.standard_error.flatten().tolist()
        return pd.DataFrame(columns)

    def __repr__(self) -> str:
        target = f", target={literal(self.target.text)}" if self.target else ""
        where = self.sites[0] if len(self.sites) == 1 else f"{len(self.sites)} sites"
        top = ", ".join(f"{literal(text)} {score:.3g}" for _, text, score in self.top(3))
        return (
            f"Attribution({isolated(str(self.scope))}{target}, {where}, {len(self.str_tokens)} tokens, "
            f"read at {self.position}; top: {top})"
        )


@dataclass(frozen=True, eq=False, repr=False)
class SequenceAttribution(_Drawn):
    """Influence of every token on several read positions of one prompt.

    `scores[r, s, t]` is the influence of token `t` at `sites[s]` on what is predicted at read
    position `positions[r]`; zero for `t > positions[r]`. `targets`, `predictions`, `fishers`
    hold one entry a read position.
    """

    scores: Float[Tensor, "read site pos"]
    positions: Annotated[tuple[int, ...], Axis("read"), Index("pos")]
    sites: Annotated[tuple[str, ...], Axis("site")]
    tokens: Int[Tensor, "pos"]
    str_tokens: Annotated[tuple[str, ...], Axis("pos")]
    has_bos: bool
    scope: ScopeInfo
    targets: Annotated[tuple[Union[Token, None], ...], Axis("read")]
    units: str
    predictions: Annotated[tuple[tuple[Candidate, ...], ...], Axis("read")]
    fishers: Annotated[tuple[Union[FisherInfo, None], ...], Axis("read")]
    standard_error: Float[Tensor, "read site pos"] | None
    provenance: Provenance

    def __len__(self) -> int:
        return len(self.positions)

    def at(self, position: int) -> Attribution:
        """The `Attribution` of one read position. Raises `PositionError` if it was not read."""
        if position not in self.positions:
            raise PositionError(
                f"read position {position} is not in this result, which holds "
                f"{list(self.positions)}; ask for one of these"
            )
        r = self.positions.index(position)
        return Attribution(
            scores=self.scores[r].clone(),
            sites=self.sites,
            tokens=self.tokens,
            str_tokens=self.str_tokens,
            has_bos=self.has_bos,
            position=position,
            scope=self.scope,
            target=self.targets[r],
            units=self.units,
            prediction=self.predictions[r],
            fisher=self.fishers[r],
            standard_error=None if self.standard_error is None else self.standard_error[r].clone(),
            provenance=self.provenance,
        )

    def to_frame(self) -> pd.DataFrame:
        """Long-form pandas table: one row a read position, site and token."""
        import pandas as pd

        frames = [self.at(p).to_frame() for p in self.positions]
        for p, frame in zip(self.positions, frames):
            frame.insert(0, "read_position", p)
        return pd.concat(frames, ignore_index=True)

    def __repr__(self) -> str:
        where = self.sites[0] if len(self.sites) == 1 else f"{len(self.sites)} sites"
        return (
            f"SequenceAttribution({isolated(str(self.scope))}, {where}, {len(self.positions)} read positions, "
            f"{len(self.str_tokens)} tokens)"
        )


def site_index(sites: tuple[str, ...], site: int | str) -> int:
    """The row of `site` (a label or an index) in `sites`. Raises `SiteError` if there is none."""
    if isinstance(site, str) and site in sites:
        return sites.index(site)
    if isinstance(site, int) and -len(sites) <= site < len(sites):
        return site % len(sites)
    raise SiteError(
        f"this result has no site {site!r}; it holds {list(sites)}: give one of these labels "
        f"or an index below {len(sites)}"
    )
