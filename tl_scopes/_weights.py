"""How weights come into memory once: read rather than mapped, and handed from one model to the next."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from typing import Any


@contextmanager
def read_not_mapped() -> Iterator[None]:
    """Weights that transformers loads inside are read tensor by tensor.

    It maps the file into memory by itself: for weights that stay as they are that is all they take,
    but beside weights that are converted the pages of the whole file would stay. To be used inside
    `undisturbed()`, where one thread loads at a time.
    """
    import transformers.modeling_utils

    library: Any = transformers.modeling_utils
    opened = library.safe_open
    if "backend" not in inspect.signature(opened).parameters:  # safetensors before 0.8
        yield
        return

    def read(*args: Any, **options: Any) -> Any:
        return opened(*args, **{**options, "backend": "pread"})

    library.safe_open = read
    try:
        yield
    finally:
        library.safe_open = opened


def hand_over(state: dict[str, Any], source: Any, model: Any) -> None:
    """Fill `model` with `state`, block by block; what a block took is let go in `source`.

    `state`: weights by their names in `model`, made of those of the Hugging Face model `source`,
    which is left without any.
    """
    source.to("meta")
    for _, names in groupby(sorted(state), key=_block):
        model.load_state_dict({name: state.pop(name) for name in list(names)}, strict=False)


def _block(name: str) -> str:
    return ".".join(name.split(".")[:2])
