"""What an activation is compared with, or replaced by: zero, a mean, another prompt's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tl_scopes.adapter.padding import refuse_read
from tl_scopes.adapter.prompt_lists import encode_all
from tl_scopes.adapter.prompts import Prompt, Prompts, bos_id
from tl_scopes.adapter.sites import Site
from tl_scopes.adapter.unembedding import working_dtype
from tl_scopes.circuits.passes.trace import CircuitRun
from tl_scopes.errors import ScopeParameterError, check_choice
from tl_scopes.jacobian import forward


@dataclass(eq=False)
class Baseline:
    """`kind`: "zero", "mean" or "corrupted". `prompts`: the ids that activations are taken from."""

    prompt_run: CircuitRun
    kind: str
    prompts: list[list[int]]
    values: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def chosen(
        cls,
        prompt_run: CircuitRun,
        kind: str | None,
        corrupted: Prompt | None,
        reference: Prompts | None,
        prepend_bos: bool | None,
    ) -> Baseline:
        """Raises `ScopeParameterError`, or `PromptError` or one of its kind."""
        if kind is None:
            given = {"corrupted": corrupted, "mean": reference}
            kind = next((own for own, value in given.items() if value is not None), "zero")
        names = ("zero", "mean", "corrupted")
        check_choice("baseline", kind, names, hint=" (with corrupted=prompt)")
        for name, value, own in (
            ("corrupted", corrupted, "corrupted"),
            ("reference", reference, "mean"),
        ):
            if value is not None and kind != own:
                raise ScopeParameterError(
                    f"{name} is given, but the baseline is {kind!r}: drop one of the two"
                )
        if kind == "corrupted":
            if corrupted is None:
                raise ScopeParameterError('baseline="corrupted" needs corrupted=, a prompt')
            ids = prompt_run.encode_like(corrupted, prepend_bos, "corrupted prompt")
            return cls(prompt_run, kind, [ids[: prompt_run.length]])
        if kind == "zero" or reference is None:
            return cls(prompt_run, kind, [])
        prompts = encode_all(prompt_run.view, reference, prepend_bos, name="reference prompts")
        for ids in prompts:
            refuse_read(ids, len(ids) - 1)  # the mean is taken over all of it
        return cls(prompt_run, kind, [*prompts])

    def measure(self, sites: Sequence[Site], own: dict[str, Tensor]) -> None:
        """Learn the baseline's activations at `sites`, inside `view.locked()`.

        `own`: those of the prompt itself, which a mean without a reference is taken over.
        """
        if self.kind == "zero":
            return
        view = self.prompt_run.view
        runs = [
            (ids, forward.activations(view, torch.tensor([ids], device=view.device), sites))
            for ids in self.prompts
        ]
        sums: dict[str, Any] = {}
        count = 0
        # Hooks may have made the run longer than what is read.
        for ids, seen in runs or [(self.prompt_run.ids[: self.prompt_run.position + 1], own)]:
            skip = int(self.kind == "mean" and len(ids) > 1 and ids[0] == bos_id(view))
            count += len(ids) - skip
            for label, x in seen.items():
                x = x.detach()[0].to(working_dtype(x.dtype))
                x = x[skip : len(ids)].sum(0) if self.kind == "mean" else x
                sums[label] = sums.get(label, 0) + x
        self.values = {k: v / count if self.kind == "mean" else v for k, v in sums.items()}

    def of(self, label: str) -> Tensor | float:
        """The baseline at a site, [pos, ...] or [...]; a number where it is zero."""
        return self.values.get(label, 0.0)
