"""Whether the fields of a dataclass hold what their annotations say: types, and the sizes of axes."""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from torch import Tensor


@dataclass(frozen=True)
class Axis:
    """In `Annotated`: the value has an entry for each place of the axis that tensors name so."""

    name: str
    size: Callable[[Any], int] = len


@dataclass(frozen=True)
class Index:
    """In `Annotated`: a place, or several, on the axis that tensors name so, or on another without it."""

    axis: str
    otherwise: str = ""


def check_fields(record: Any) -> None:
    """Raises `TypeError` for a field of another type or shape, or an index beyond its axis."""
    hints, sizes = _hints(type(record)), {}
    values = {field.name: getattr(record, field.name) for field in fields(record)}
    defaults = {field.name: field.default for field in fields(record)}
    for name, value in values.items():
        if not _fits(value, hints[name]):
            raise TypeError(f"{name} is {_short(value)}, not {_told(hints[name])}")
        if value == () == defaults[name]:  # a file of an older version may lack the field
            continue
        for axis, size in _axes(value, hints[name]):
            owner, expected = sizes.setdefault(axis, (name, size))
            if expected != size:
                raise TypeError(f"{name} has {size} along {axis}, {owner} has {expected}")
    for name, value in values.items():
        for note in _notes(hints[name]):
            if isinstance(note, Index):
                axis = note.axis if note.axis in sizes else note.otherwise
                owner, size = sizes.get(axis, ("nothing", 0))
                wrong = [i for i in _listed(value) if not 0 <= i < size]
                if wrong:
                    raise TypeError(f"{name} holds {wrong[0]}, but {owner} has {size} along {axis}")


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _fits(value: Any, hint: Any) -> bool:
    origin, inside = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin is Annotated:
        return _fits(value, inside[0])
    if origin in (Union, types.UnionType):
        return any(_fits(value, own) for own in inside)
    if origin is Literal:
        return value in inside
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if inside[-1] is ...:
            return all(_fits(entry, inside[0]) for entry in value)
        return len(value) == len(inside) and all(map(_fits, value, inside))
    if origin is not None and issubclass(origin, Mapping):
        each = value.items() if isinstance(value, Mapping) else [(None, None)]
        return all(_fits(k, inside[0]) and _fits(v, inside[1]) for k, v in each)
    if hint in (int, float):
        allowed = (int, float) if hint is float else int
        return isinstance(value, allowed) and not isinstance(value, bool)
    if not isinstance(value, hint):
        return False
    inner = fields(hint) if is_dataclass(hint) else ()
    return all(_fits(getattr(value, f.name), _hints(hint)[f.name]) for f in inner)


def _axes(value: Any, hint: Any) -> Iterator[tuple[str, int]]:
    """The sizes that a value gives to the axes that its annotation names."""
    if isinstance(value, Tensor):
        members = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
        own = next(member for member in members if isinstance(value, member))
        yield from zip(own.dim_str.split(), value.shape)
    elif value is not None:
        yield from (
            (note.name, note.size(value)) for note in _notes(hint) if isinstance(note, Axis)
        )


def _notes(hint: Any) -> tuple[Any, ...]:
    return hint.__metadata__ if get_origin(hint) is Annotated else ()


def _listed(value: Any) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,)


def _told(hint: Any) -> str:
    plain = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    text = plain.__name__ if isinstance(plain, type) and not get_args(plain) else str(plain)
    return re.sub(r"\b(typing|tl_scopes\.\w+)\.", "", text)


def _short(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of {value.dtype} and shape {list(value.shape)}"
    text = repr(value)
    return text if len(text) <= 80 else text[:80] + "..."
