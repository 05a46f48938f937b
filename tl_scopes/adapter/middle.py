"""The residual stream between attention and MLP, where a hook shows it and a skip path goes around it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tl_scopes.adapter import internals
from tl_scopes.errors import SiteError

_NAME = "hook_resid_mid"
# Share of the largest entry that parts may miss: rounding in the sums of single precision, and of half.
_ADDS_UP, _ADDS_UP_HALF = 1e-3, 5e-2


def is_beside_the_stream(block: Any, hook: str, point: Any) -> bool:
    """Whether `point`, which has the stream's name, is the input of something that reads the stream.

    A TransformerBridge calls the second norm's input by that name: what is edited there is seen by
    the norm alone. A point of the block's own lies on the way.
    """
    return hook.endswith(f".{_NAME}") and internals.children(block).get(_NAME) is not point


class Middle:
    """One edit of that stream. What the edit adds is added to the block's output too, which is what
    the skip path would have carried there.

    `enter`, `write` and `leave` are to see the stream, what the MLP writes, and the block's output.
    """

    def __init__(self, label: str, edit: Any) -> None:
        self.label, self.edit = label, edit
        self.before = self.after = self.written = None

    def enter(self, stream: Tensor) -> Tensor:
        self.before, self.after, self.written = stream, self.edit(stream), None
        return self.after

    def write(self, output: Tensor) -> Tensor:
        self.written = output
        return output

    def leave(self, output: Tensor) -> Tensor:
        before, after = self.before, self.after
        if before is None or after is None:
            return output
        self._check(before, output)
        self.before = self.after = self.written = None
        return output + (after - before)

    @torch.no_grad()
    def _check(self, stream: Tensor, output: Tensor) -> None:
        """Raises `SiteError` unless the block's output is the stream and what the MLP writes."""
        written = self.written
        if written is not None and written.shape == output.shape == stream.shape:
            scale = torch.maximum(stream.abs(), output.abs()).amax(-1, keepdim=True)
            missed = (stream + written - output).abs()
            # NaN is for others to name.
            if not (missed > tolerance(output.dtype) * scale).any():
                return
        block = self.label.split(_NAME)[0]
        raise SiteError(
            f"site {self.label!r} is the input of the norm or MLP alone on this model, and the "
            "block's output is not the sum of it and of what the MLP writes (an architecture that "
            "adds something else, or a hook of yours in between): its influence as residual stream "
            f'cannot be told. Use "{block}hook_resid_pre", "{block}hook_resid_post" or '
            f'"{block}hook_attn_out"'
        )


def tolerance(dtype: torch.dtype) -> float:
    """The share of the largest entry of a stream by which what is written into it may miss it."""
    return _ADDS_UP if dtype in (torch.float32, torch.float64) else _ADDS_UP_HALF
