"""The checks of annotations that all other tests run under: what is wrong is found, what is right passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import jaxtyping
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from support import typechecks

if TYPE_CHECKING:
    from nowhere import Unknown

checked = jaxtyping.jaxtyped(typechecker=typechecks.typecheck)


@checked
def product(
    a: Float[Tensor, "row inner"], b: Float[Tensor, "inner column"]
) -> Float[Tensor, "row column"]:
    return (a @ b) if a.shape[0] > 1 else b


@checked
def name(number: int, *more: float, text: str = "", wanted: Unknown | None = None) -> str:
    return text if number else number  # type: ignore[return-value]


def outer(wrong: bool) -> Callable[..., Any]:
    @checked
    def inner(a: Float[Tensor, "n"], *numbers: int, **texts: str) -> Float[Tensor, "n"]:
        return torch.zeros(7) if wrong else a

    return inner


@contextmanager
@checked
def _entered() -> Iterator[int]:
    yield 1


def test_what_is_right_passes():
    assert product(torch.ones(2, 3), torch.ones(3, 4)).shape == (2, 4)
    assert name(1, 2.0, 3, text="a", wanted=object()) == "a"
    for _ in range(2):
        assert outer(False)(torch.ones(2), 1, 2, b="c").shape == (2,)
    with _entered() as one:
        assert one == 1


@pytest.mark.parametrize(
    "call",
    [
        lambda: product(torch.ones(2, 3), torch.ones(4, 3)),  # names of dimensions are bound
        lambda: product(torch.ones(1, 3), torch.ones(3, 3)[:, :2].T),
        lambda: product(torch.ones(1, 3), torch.ones(3, 3)[:, :2]),  # in the answer too
        lambda: product(torch.ones(2, 3), torch.ones(3, 4, dtype=torch.int64)),
        lambda: name("1"),
        lambda: name(1, "2"),
        lambda: name(1, text=b""),
        lambda: name(0),
        lambda: outer(False)(torch.ones(2, 2)),
        lambda: outer(False)(torch.ones(2), 1, "2"),
        lambda: outer(False)(torch.ones(2), b=1),
        lambda: outer(True)(torch.ones(2)),
    ],
)
def test_what_is_wrong_is_found(call):
    with pytest.raises(Exception, match=r"(?s)violates type hint|not instance|Type-check error"):
        call()


@pytest.mark.wrong_types
def test_checks_can_be_turned_off():
    assert name("1", text="a") == "a"
    assert outer(True)(torch.ones(2)).shape == (7,)
