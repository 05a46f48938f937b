"""Maps of a model that is altered: what a check compares, over the tokens up to the read without BOS."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from tl_scopes.adapter.continuations import check_length, encode_continuation
from tl_scopes.adapter.prompt_lists import encode_all
from tl_scopes.adapter.prompts import Prompts, bos_id, resolve_position
from tl_scopes.adapter.view import view_of
from tl_scopes.evaluation.methods import (
    AnyMethod,
    Methods,
    check_continuations,
    labelled,
    reads,
    score,
)
from tl_scopes.jacobian.prompt_run import read_position
from tl_scopes.scopes.pinning import pinned, takes_prediction


class Maps:
    """Maps of the same prompts and methods, for a model that is altered between them.

    A method that explains the model's top prediction goes on explaining what it is now.
    `methods`: by label. `prompts`: token ids. `after`: those that follow each, where they are explained.
    """

    def __init__(
        self,
        model: Any,
        prompts: Prompts,
        methods: Methods,
        position: int,
        prepend_bos: bool | None,
        continuations: Sequence[Any] | None = None,
    ) -> None:
        self.view = view_of(model)
        self.methods = labelled(methods)
        self.prompts = [*encode_all(self.view, prompts, prepend_bos)]
        check_continuations(continuations, len(self.prompts), self.methods.values(), position)
        self.after = None
        if continuations is not None:
            self.after = [encode_continuation(self.view, given) for given in continuations]
            for ids, more in zip(self.prompts, self.after):
                check_length(self.view, ids, more)
        self._position = position
        self._predicted: list[int | None] = [None] * len(self.prompts)
        if any(map(takes_prediction, self.methods.values())):
            states = reads(self.view, self.prompts, position)
            self._predicted = [read.resolve(None).id for read in states]

    def now(self, only: int | None = None) -> dict[int, list[Float[Tensor, "compared"]]]:
        """Scores of the tokens that are compared, by prompt (`only` that one) and method."""
        groups: dict[int | None, list[int]] = {}
        for index in range(len(self.prompts)) if only is None else [only]:
            groups.setdefault(self._predicted[index], []).append(index)
        maps = {}
        for token, group in groups.items():
            every = self.methods.values()
            methods = [m if token is None else pinned(m, token) for m in every]
            prompts = [self.prompts[i] for i in group]
            after = self.after and [self.after[i] for i in group]
            scores = score(self.view, prompts, methods, self._position, after)
            for i, of_prompt in zip(group, scores):
                maps[i] = [s[self._compared(self.prompts[i], m)] for m, s in zip(every, of_prompt)]
        return dict(sorted(maps.items()))

    def _compared(self, ids: list[int], method: AnyMethod) -> slice:
        """Up to the read, without BOS where there are other tokens."""
        end = resolve_position(read_position(method, self._position), ids) + 1
        return slice(1 if end > 1 and ids[0] == bos_id(self.view) else 0, end)
