"""Annotations of the package checked at run time, at a price that tests of tiny models can pay.

jaxtyping's own wrapper binds the names of dimensions across a signature. It checks arguments twice, in 6 us and more
a call, and takes a millisecond to make, which a function inside another pays on every call. So beartype alone checks
signatures without dimensions, to the same end, and what is known of an inner function's signature is kept.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable
from typing import Any, get_args, get_type_hints

import jaxtyping
from beartype import BeartypeConf, beartype
from beartype.door import die_if_unbearable

# An int is allowed where a float is asked for, as in mypy.
_CONF = BeartypeConf(is_pep484_tower=True)
typecheck = beartype(conf=_CONF)
_with_dimensions = jaxtyping.jaxtyped
_KINDS = inspect.Parameter


def install(package: str) -> None:
    """Check every annotation of what is imported from `package` from now on."""
    jaxtyping.jaxtyped = _jaxtyped  # what the import hook has in front of every function
    jaxtyping.install_import_hook(package, "support.typechecks.typecheck")


def _jaxtyped(fn: Any = None, *, typechecker: Any) -> Any:
    if fn is None:
        return functools.partial(_jaxtyped, typechecker=typechecker)
    if not isinstance(fn, types.FunctionType):
        return _with_dimensions(fn, typechecker=typechecker)
    if "<locals>" in fn.__qualname__:
        return _inner(fn)
    hints = _hints(fn)
    if any(map(_has_dimensions, hints.values())):
        return _with_dimensions(fn, typechecker=typechecker)
    return _checked(fn, hints) if hints else fn


def _hints(fn: Callable[..., Any]) -> dict[str, Any]:
    return {name: _hint(fn, value) for name, value in fn.__annotations__.items()}


def _hint(fn: Callable[..., Any], annotation: Any) -> Any:
    """One annotation; Any where a name in it is there for type checkers alone, as in jaxtyping."""
    alone = types.SimpleNamespace(__annotations__={"it": annotation})
    try:
        return get_type_hints(alone, fn.__globals__, include_extras=True)["it"]
    except Exception:
        return Any


def _has_dimensions(hint: Any) -> bool:
    if isinstance(hint, (list, tuple)):
        return any(map(_has_dimensions, hint))
    array = inspect.isclass(hint) and issubclass(hint, jaxtyping.AbstractArray)
    return array or _has_dimensions(get_args(hint))


def _checked(fn: types.FunctionType, hints: dict[str, Any]) -> Any:
    twin = types.FunctionType(
        fn.__code__, fn.__globals__, fn.__name__, fn.__defaults__, fn.__closure__
    )
    functools.update_wrapper(twin, fn)
    del twin.__wrapped__
    twin.__kwdefaults__, twin.__annotations__ = fn.__kwdefaults__, hints
    made = typecheck(twin)
    if made is twin:  # nothing to check
        return fn
    # A warning counts frames of the package: two of others around a function, as jaxtyping has.
    strict = types.FunctionType(
        made.__code__, dict(globals()), made.__name__, made.__defaults__, made.__closure__
    )
    strict.__kwdefaults__ = made.__kwdefaults__

    @functools.wraps(fn)
    def checked(*args: Any, **kwargs: Any) -> Any:
        return (fn if jaxtyping.config.jaxtyping_disable else strict)(*args, **kwargs)

    return checked


# ----------------------------------------------------------------------------- functions in functions
_known: dict[types.CodeType, tuple[inspect.Signature, dict[str, Any]]] = {}


def _inner(fn: types.FunctionType) -> Any:
    if not fn.__annotations__:
        return fn
    if fn.__code__ not in _known:
        _known[fn.__code__] = inspect.signature(fn), _hints(fn)
    signature, hints = _known[fn.__code__]

    @functools.wraps(fn)
    def checked(*args: Any, **kwargs: Any) -> Any:
        if jaxtyping.config.jaxtyping_disable:
            return fn(*args, **kwargs)
        bound = signature.bind(*args, **kwargs)
        with _with_dimensions("context"):
            for name, value in bound.arguments.items():
                kind = signature.parameters[name].kind
                values = (
                    value
                    if kind is _KINDS.VAR_POSITIONAL
                    else value.values()
                    if kind is _KINDS.VAR_KEYWORD
                    else (value,)
                )
                for one in values if name in hints else ():
                    die_if_unbearable(one, hints[name], conf=_CONF)
            out = fn(*args, **kwargs)
            if "return" in hints:
                die_if_unbearable(out, hints["return"], conf=_CONF)
            return out

    return checked
