"""Sites: where in the model influence is measured. Parsing, labels, order."""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Union

from tl_scopes.errors import SiteError

SiteRequest = Union[str, int, Sequence[Union[str, int]]]

_RESID = re.compile(r"resid\((-?\d+)\)")
_BLOCK = re.compile(r"blocks\.(\d+)\.")
_COMPONENT = re.compile(r"(?P<hook>.+?)(?P<index>(\[\d+\])+)")
_MIDDLE = re.compile(r"(blocks\.\d+\.)hook_resid_mid")
_LAYER = re.compile(r"-?[0-9]{1,9}")


def from_text(text: str) -> list[str | int]:
    """`"embed,6,blocks.0.hook_mlp_out"` as a list of names and layers. Raises `SiteError`."""
    items = [item.strip() for item in text.split(",")]
    if not all(items):
        raise SiteError(
            f"sites {text!r} has an empty entry; give embed, all, layers such as 0,6,12 or hook "
            "names, commas between"
        )
    return [int(item) if _LAYER.fullmatch(item) else item for item in items]


@dataclass(frozen=True)
class Site:
    """One named place in the model.

    `label` is what results show: `embed`, `resid(l)`, or the hook name. `hook` is the
    TransformerLens hook name that is recorded there. `component` picks one entry of the axes
    between `pos` and the last one (a head, for `hook_z`); None keeps them all, one label each.
    """

    label: str
    hook: str
    component: tuple[int, ...] | None = None

    @property
    def is_embed(self) -> bool:
        return self.label == "embed"

    @property
    def is_named(self) -> bool:
        """Whether the site was given as a hook name, whose shape is known only when it fires."""
        return self.label.startswith(self.hook)

    @property
    def layer(self) -> int | None:
        """The l of `resid(l)`; None of any other label."""
        found = _RESID.fullmatch(self.label)
        return None if found is None else int(found[1])

    @property
    def block(self) -> int | None:
        """The block that the hook sits in; None outside the blocks."""
        found = _BLOCK.match(self.hook)
        return None if found is None else int(found[1])

    def components(self, axes: Sequence[int]) -> list[tuple[str, tuple[int, ...]]]:
        """The result rows of the site: a label, and an index into the axes between `pos` and the last one.

        `axes`: their lengths, none for a residual stream. Raises `SiteError` for a component that is
        not there.
        """
        if not axes and self.component is None:
            return [(self.label, ())]
        every = list(product(*map(range, axes)))
        if self.component is None:
            # Such as `blocks.3.attn.hook_z[2]`.
            return [(self.hook + "".join(f"[{i}]" for i in index), index) for index in every]
        if self.component not in every:
            shape = list(axes)
            raise SiteError(
                f"site {self.label!r} does not exist: {self.hook} has "
                + (f"axes {shape} between pos and the last" if shape else "no head axis")
                + f"; allowed: {self.hook!r}"
                + (f", or with indices below {shape}" if shape else "")
            )
        return [(self.label, self.component)]


def embed_site() -> Site:
    """The token-embedding output as the first block's stream receives it."""
    return Site("embed", "hook_embed")


def resid_site(layer: int, n_layers: int) -> Site:
    """The residual stream entering block `layer`, or the final norm for `layer == n_layers`."""
    if layer < n_layers:
        return Site(f"resid({layer})", f"blocks.{layer}.hook_resid_pre")
    return Site(f"resid({layer})", f"blocks.{layer - 1}.hook_resid_post")


def parse_sites(request: SiteRequest, n_layers: int, hooks: Collection[str]) -> tuple[Site, ...]:
    """Turn what a user asks for into sites, in the order asked for, each once.

    `request`: `"embed"`, `"all"` (embed, then resid(0)..resid(n_layers)), an int layer (negative
    ones count back from resid(n_layers), as -1), `"resid(l)"`, a hook name in `hooks`, or a list of
    these. Raises `SiteError`, with the nearest names, for anything else.
    """
    items: list[Any] = []
    for item in _listed(request):
        if isinstance(item, str) and item == "all":
            items += ["embed", *range(n_layers + 1)]
        else:
            items.append(item)
    if not items:
        raise SiteError('no site was given; allowed: "embed", "all", a layer, a hook name, a list')
    return tuple(dict.fromkeys(parse_site(item, n_layers, hooks) for item in items))


def parse_site(item: str | int, n_layers: int, hooks: Collection[str]) -> Site:
    """One site from `"embed"`, a layer, `"resid(l)"` or a hook name. Raises `SiteError`."""
    if not isinstance(item, str):
        try:
            layer = operator.index(item)
        except TypeError:
            raise _not_a_site(item) from None
        if isinstance(item, bool):
            raise _not_a_site(item)
        return _layer_site(layer, n_layers)
    if item == "all":
        raise SiteError('"all" means every layer, but one site is needed here: name one')
    if item == "embed":
        return embed_site()
    if match := _RESID.fullmatch(item):
        return _layer_site(int(match[1]), n_layers)
    if item in hooks:
        return Site(item, item)
    if (match := _COMPONENT.fullmatch(item)) and match["hook"] in hooks:
        component = tuple(int(i) for i in re.findall(r"\d+", match["index"]))
        return Site(item, match["hook"], component)
    if (match := _MIDDLE.fullmatch(item)) and f"{match[1]}hook_resid_pre" in hooks:
        raise SiteError(
            f"the model has no site {item!r}: its attention and MLP read one stream side by side, or "
            f'one of them is missing, so that no stream runs between them. Use "{match[1]}'
            f'hook_resid_pre" or "{match[1]}hook_resid_post"'
        )
    names = ["embed", "all", *(f"resid({layer})" for layer in range(n_layers + 1)), *hooks]
    near = difflib.get_close_matches(item, names, n=3, cutoff=0.4)
    hint = f"; the nearest names are {', '.join(map(repr, near))}" if near else ""
    raise SiteError(
        f'the model has no site {item!r}{hint}. Allowed: "embed", "all", a layer from 0 to '
        f"{n_layers}, or a name in model.hook_dict"
    )


def _listed(request: Any) -> list[Any]:
    if isinstance(request, str):
        return [request]
    try:
        operator.index(request)
        return [request]
    except TypeError:
        pass
    try:
        return list(request)
    except TypeError:
        raise _not_a_site(request) from None


def _not_a_site(item: object) -> SiteError:
    return SiteError(
        f"a site is a string or an int layer, or a list of these, not {item!r} of type "
        f"{type(item).__name__}"
    )


def _layer_site(layer: int, n_layers: int) -> Site:
    if not -n_layers - 1 <= layer <= n_layers:
        raise SiteError(
            f"layer {layer} is out of range: the model has {n_layers} blocks, so resid(0) to "
            f"resid({n_layers}) exist (resid({n_layers}) enters the final norm)"
        )
    return resid_site(layer % (n_layers + 1), n_layers)
