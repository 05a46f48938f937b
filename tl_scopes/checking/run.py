"""`check`: every look at a model, each alone."""

from __future__ import annotations

import platform
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from tl_scopes.adapter.prompts import Prompt
from tl_scopes.adapter.sites import Site
from tl_scopes.adapter.view import view_of
from tl_scopes.checking import backward, forward
from tl_scopes.checking.costs import bare_seconds, cost, longest, scopes
from tl_scopes.checking.finding import Cost, Finding, ModelCheck
from tl_scopes.checking.state import changed, state
from tl_scopes.checking.subject import Subject, or_float32, prompt_ids
from tl_scopes.errors import ScopesError, ScopesWarning
from tl_scopes.jacobian.forward import first_nonfinite
from tl_scopes.results.escapes import message

_TOKENS = 128
# So much of a message tells which refusal it is: what comes later may be numbers.
_SAME = 40

Look = Callable[[Subject], Finding]


def check(
    model: Any,
    prompt: Prompt | None = None,
    *,
    original: Any = None,
    costs: bool = True,
    progress: bool | None = None,
) -> ModelCheck:
    """Whether scopes are right on this model, in its dtype and on its device, and what they cost.

       Log-probabilities must equal Hugging Face's, later tokens must not matter, and gradients at five sites
       must equal finite differences. What heads and MLPs write must add up to the residual stream, a batch
       must give what single prompts give, and the model must be left as it was. The last step, the embedding's
       scale, the number of heads, weight processing and BOS are looked at too.
    Two minutes for a model of 135 million parameters on 2 cores, of which costs are
       half; as long for one of Llama-3.2-1B's shape in bfloat16, which takes 10 GB at the peak, for a copy
       in float32. Raises nothing for what it finds: each finding stands alone, and what could not be told says
       why.

       Args:
           model: a HookedTransformer or TransformerBridge, with the hooks that it shall be used with.
           prompt: text or token ids to look at; None for 128 tokens of a text (of no text, where the
               model has no tokenizer).
           original: the Hugging Face model that it shall equal, as `AutoModelForCausalLM` loads it: not
               one that a bridge has wrapped.
           costs: whether to measure seconds and memory of each scope too.
           progress: whether to show a bar on stderr; None: on a terminal.

       Returns:
           `ModelCheck`, whose `passed` says whether nothing failed.

       Raises:
           ScopesError: for a prompt that cannot be used.

           >>> result = ts.check(model, costs=False)
           >>> [finding.measured for finding in result.of("failed")]
    """
    started = time.perf_counter()
    try:
        at = Subject(model, view_of(model), [], original)
    except ScopesError as error:
        result = ModelCheck((_failed("model", error, ()),), machine=_machine([]))
        return replace(result, seconds=time.perf_counter() - started)
    at.ids = prompt_ids(at.view, prompt, _TOKENS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ScopesWarning)
        result = _looked(at, costs, sys.stderr.isatty() if progress is None else progress)
    return replace(result, seconds=time.perf_counter() - started)


def _looked(at: Subject, costs: bool, shown: bool) -> ModelCheck:
    from tqdm import tqdm

    looks, precise = _looks(at), _precise_looks(at)
    kinds = scopes() if costs else {}
    bar = tqdm(
        total=len(looks) + len(precise) + len(_SUMS) + len(kinds) + 2,
        unit="check",
        leave=False,
        disable=not shown,
    )
    findings: list[Finding] = []

    def look(name: str, what: Look) -> None:
        bar.set_description(name)
        findings.append(_finding(name, what, at, findings))
        bar.update()

    with bar:
        look("model", _runs)  # a bridge wires its modules in its first pass
        before = state(at.view)
        for name, what in looks.items():
            look(name, what)
        # Once for all of them: a copy of a billion weights takes seconds.
        with backward.precisely(at):
            for name, what in precise.items():
                look(name, what)
        # Where scopes are refused, each look would find out why once more.
        stopped = _stopped(findings[-1])
        for name, what in _SUMS.items():
            look(name, what if stopped is None else lambda at, stopped=stopped: stopped)
        measured = _costs(at, kinds, bar) if stopped is None else ()
        look("hooks and flags as before", lambda at: _unchanged(before, state(at.view)))
    took = [each.mib for each in measured if each.mib is not None]
    fits, free = longest(at, took[0]) if took else (None, None)
    return ModelCheck(
        tuple(findings), measured, fits, free, at.view.provenance(), _machine(at.devices)
    )


def _looks(at: Subject) -> dict[str, Look]:
    """By name, in order: what others rest on comes first."""
    half = at.view.dtype in (torch.bfloat16, torch.float16)
    in_half = {f"gradient in {at.dtype_name}": backward.sites(at.view)[0]} if half else {}
    return {
        "weights raw": forward.weights,
        "BOS": forward.bos,
        "logits": forward.logits,
        "causal": forward.causal,
        "last step": forward.last_step,
        "embedding scale": forward.embedding,
        **{name: _gradient(site) for name, site in in_half.items()},
    }


def _precise_looks(at: Subject) -> dict[str, Look]:
    """In float32 where memory allows: rounding in half precision would hide, or be taken for, a fault."""
    looks: dict[str, Look] = {
        **{f"gradient at {site.label}": _gradient(site) for site in backward.sites(at.view)},
        "batch equals single": backward.batch,
    }
    return {name: backward.following(look, at.view.dtype) for name, look in looks.items()}


_SUMS = {
    "writes add up": backward.offered(backward.writes),
    "heads": backward.offered(backward.heads),
}


def _stopped(last: Finding) -> Finding | None:
    """What to say of looks that ask for a scope too, where the `last` was refused one."""
    if last.state == "passed" or last.value is not None:
        return None
    if last.state == "skipped":
        return last
    return Finding("", "skipped", f"cannot be told: see {last.name!r}")


def _gradient(site: Site) -> Look:
    return lambda at: backward.gradient(at, site)


def _finding(name: str, look: Look, at: Subject, before: Sequence[Finding]) -> Finding:
    """What `look` finds, or why it cannot. Ctrl-C goes on."""
    try:
        return replace(look(at), name=name)
    except ScopesError as error:
        return _failed(name, error, before)
    except Exception as error:
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            return Finding(name, "skipped", "out of memory", remedy="a shorter prompt, or bfloat16")
        return Finding(
            name,
            "failed",
            f"{type(error).__name__}: {message(str(error))[:300]}",
            remedy="the model's own forward pass failed, or this is a bug of tl_scopes: try another "
            f"version of transformer-lens{or_float32(at.view.dtype)}",
        )


def _failed(name: str, error: ScopesError, before: Sequence[Finding]) -> Finding:
    """A refusal of the package, which says what to do; skipped where an earlier finding is of the same."""
    text = str(error)
    for other in before:
        if other.state == "failed" and other.measured[:_SAME] == text[:_SAME]:
            return Finding(name, "skipped", f"cannot be told: see {other.name!r}")
    return Finding(name, "failed", text)


def _costs(at: Subject, kinds: Mapping[str, Any], bar: Any) -> tuple[Cost, ...]:
    bar.set_description("a bare forward pass")
    bare, each = bare_seconds(at) if kinds else 0.0, []
    for name, scope in kinds.items():
        bar.set_description(f"costs: {name}")
        each.append(cost(at, name, scope, bare))
        bar.update()
    return tuple(each)


def _runs(at: Subject) -> Finding:
    """Whether a forward pass ends, in finite numbers."""
    with at.view.locked():
        at_fault = first_nonfinite(at.view, at.tokens)
    if at_fault is None:
        return Finding("", "passed", "supported, and its numbers are finite")
    return Finding(
        "",
        "failed",
        f"NaN or infinity at {at_fault}",
        remedy="check the weights and hooks there; in float16, load the model in bfloat16 or float32",
    )


def _unchanged(before: dict[str, Any], after: dict[str, Any]) -> Finding:
    lost = changed(before, after)
    if lost:
        return Finding(
            "",
            "failed",
            f"changed: {', '.join(lost)}",
            remedy="a bug of tl_scopes: please report it",
        )
    return Finding("", "passed", "nothing changed")


def _machine(devices: Sequence[torch.device]) -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "threads": torch.get_num_threads(),
        "devices": [torch.cuda.get_device_name(d) if d.type == "cuda" else str(d) for d in devices],
    }
