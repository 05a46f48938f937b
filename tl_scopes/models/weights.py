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
    which is left without any. A tensor that fits as it is becomes the model's own: tied embeddings
    would else be in memory three times while they are copied.
    """
    source.to("meta")
    own, taken = model.state_dict(), set()
    for _, names in groupby(sorted(state), key=_block):
        copied, kept = {}, {}
        for name in list(names):
            value, wanted = state.pop(name), own.pop(name, None)
            place = value.untyped_storage().data_ptr()
            if wanted is not None and _fits(value, wanted) and place not in taken:
                taken.add(place)
                kept[name] = value
            else:
                copied[name] = value
        model.load_state_dict(copied, strict=False)
        model.load_state_dict(kept, strict=False, assign=True)


def _fits(value: Any, wanted: Any) -> bool:
    """Whether a tensor can stand for `wanted` as it is: nothing else lies in its memory."""
    alike = all(getattr(value, x) == getattr(wanted, x) for x in ("shape", "dtype", "device"))
    return alike and value.is_contiguous() and value.untyped_storage().nbytes() == value.nbytes


def _block(name: str) -> str:
    return ".".join(name.split(".")[:2])
