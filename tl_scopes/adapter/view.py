"""One narrow view over HookedTransformer and TransformerBridge, so that other rooms need not tell them apart."""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor, nn

from tl_scopes.adapter import failures, forks, guards, head, heads, hooks, internals
from tl_scopes.adapter.middle import Middle, is_beside_the_stream
from tl_scopes.adapter.sites import Site, SiteRequest, parse_site, parse_sites
from tl_scopes.adapter.unembedding import OutputTransform, Unembedding, working_dtype
from tl_scopes.errors import SiteError
from tl_scopes.results.records import Provenance

Edit = Callable[[Tensor], Tensor]


class ModelView:
    """What the package needs of a model, the same for both TransformerLens classes.

    Made by `view_of`, which refuses models whose scopes would be wrong. Facts that depend on weights
    or flags are read afresh. What `last_step.verify` finds (`embed_scale`, that the last step is
    known) is kept until the last step's hooks or weights change. It is not kept where the embedding
    gave zeros alone, which tell nothing.
    """

    def __init__(self, model: Any) -> None:
        self._model = weakref.ref(model)
        self.is_bridge = guards.transformer_lens_class(model) == "TransformerBridge"
        self.lock = threading.RLock()
        self.verified_under: tuple[Any, ...] | None = None
        self.embed_scale = 1.0
        self.followed: list[tuple[tuple[Any, ...], int]] = []
        self.loops_backward: tuple[Any, ...] | None = None
        self.last_texts: tuple[tuple[int, ...], tuple[str, ...]] | None = None
        self._hooks: dict[str, Any] | None = None
        self._modules: list[nn.Module] | None = None
        self._points: dict[str, weakref.ref[Any]] = {}
        self._points_of: tuple[Any, ...] = ()
        self._stacks: list[ExitStack] = []

    @property
    def model(self) -> Any:
        return self._model()

    @property
    def cfg(self) -> Any:
        return self.model.cfg

    @property
    def n_layers(self) -> int:
        return int(self.cfg.n_layers)

    @property
    def d_model(self) -> int:
        return int(self.cfg.d_model)

    @property
    def n_ctx(self) -> int | None:
        n_ctx = getattr(self.cfg, "n_ctx", None)
        return int(n_ctx) if n_ctx and n_ctx > 0 else None

    @property
    def dtype(self) -> torch.dtype:
        return head.dtype(self.model)

    @property
    def device(self) -> torch.device:
        """Where token ids go: the device of the embedding."""
        return next(iter(self.model.embed.parameters())).device

    @property
    def hooks(self) -> dict[str, Any]:
        """Hook points by name, as `model.hook_dict` has them."""
        if self._hooks is not None:
            return self._hooks
        if not self.is_bridge:
            return self.model.hook_dict
        points = {name: point() for name, point in self._points.items()}
        return internals.hook_points(self.model) if None in points.values() else points

    def learn_hooks(self, modules: list[nn.Module]) -> None:
        """A bridge takes milliseconds to list its hook points: the list is kept while its modules
        stay the same, by weak references, since hooks on the points may refer to the model."""
        if self.is_bridge:
            facts = (self.model.compatibility_mode, *map(id, modules))
            gone = any(point() is None for point in self._points.values())
            if self._points_of != facts or gone:
                points = internals.hook_points(self.model)
                self._points = {name: weakref.ref(point) for name, point in points.items()}
                self._points_of = facts

    def unembedding(self) -> Unembedding:
        """`W_U`, `b_U` and output transform as they are now."""
        with torch.no_grad():
            W_U, b_U = head.weight(self.model), self.model.b_U.detach()
            return Unembedding(W_U, b_U, self._output_transform())

    def _output_transform(self) -> OutputTransform | None:
        transform = getattr(
            getattr(self.model, "adapter", None), "apply_output_logits_transform", None
        )
        if transform is None:
            cap = float(getattr(self.cfg, "output_logits_soft_cap", None) or 0)
            if cap <= 0:
                return None
            return lambda raw: cap * torch.tanh(raw / cap)
        probe = torch.tensor([-7.5, 0.0, 2.25, 30.0], dtype=torch.float64, device="cpu")
        return None if torch.equal(transform(probe), probe) else transform

    def sites(self, request: SiteRequest) -> tuple[Site, ...]:
        return parse_sites(request, self.n_layers, self.hooks.keys())

    def site(self, request: str | int) -> Site:
        return parse_site(request, self.n_layers, self.hooks.keys())

    def taps(self) -> ExitStack:
        """What undoes taps. `locked` closes it too, should Ctrl-C strike on the line that leaves it."""
        self._stacks.append(ExitStack())
        return self._stacks[-1]

    def tap(self, undo: ExitStack, site: Site, edit: Edit) -> None:
        """Let `edit` replace the activation at `site` in every forward pass until `undo`.

        The edited tensor is always put back on its way: what is merely stored can lie off the
        graph (a head-split copy on TransformerBridge). All that read the residual stream see it
        where the site is named after that.
        """
        if site.is_embed and getattr(self.cfg, "post_embedding_ln", False) and not self.is_bridge:
            self._pre_hook(undo, self.model.embed.ln, _own_thread(edit))
            return
        name = "embed.hook_out" if site.is_embed and self.is_bridge else site.hook
        if name not in self.hooks and name.endswith(".mlp.hook_in"):  # a HookedTransformer's MLP
            self._pre_hook(undo, self.model.blocks[site.block].mlp, _own_thread(edit))
            return
        if name not in self.hooks:
            raise SiteError(
                f"site {site.label!r} needs the hook {name!r}, which this model does not have; "
                "give another site, or a name in model.hook_dict"
            )
        block = None if site.block is None else self.model.blocks[site.block]
        if block is None or not is_beside_the_stream(block, name, self.hooks[name]):
            self.tap_point(undo, name, edit)
            hooks.on_list(undo, block, self.hooks[name], _own_thread(edit))
            return
        middle = Middle(site.label, edit)
        written = f"blocks.{site.block}.hook_mlp_out"
        self.tap_point(undo, name, middle.enter)
        if written in self.hooks:
            self.tap_point(undo, written, middle.write)
        # The wrapped block's own output: hooks at hook_resid_post come after it.
        self.tap_module(undo, block.original_component, lambda x: x, middle.leave)

    def tap_point(self, undo: ExitStack, name: str, edit: Edit) -> None:
        """The same for what one hook point passes on, whoever reads the tensor elsewhere."""
        point = self.hooks[name]
        edit = heads.by_own_heads(self.model, name, point, _own_thread(edit))
        # add_hook, not register_forward_hook: it applies the point's own head-splitting
        # conversion, and some points are only called when TransformerLens knows of a hook.
        hooks.remove_new_hooks(undo, point)
        point.add_hook(lambda activation, hook: edit(activation), dir="fwd")

    def tap_final(self, undo: ExitStack, edit: Edit) -> None:
        """Let `edit` replace the final state, the input of the unembedding, until `undo`.

        A pre-hook on the module sees it on both classes and all versions: hook_normalized comes
        before the norm's gain, and unembed.hook_in is missing in 2.x.
        """
        self._pre_hook(undo, self.model.unembed, _own_thread(edit))

    def tap_stream(self, undo: ExitStack, edit: Edit) -> None:
        """The same for what enters the first block, before any hook point there can edit it."""
        self._pre_hook(undo, self.model.blocks[0], _own_thread(edit))

    def _pre_hook(self, undo: ExitStack, module: nn.Module, edit: Edit) -> None:
        def hook(_: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
            if args:
                return (edit(args[0]), *args[1:]), kwargs
            if "hidden_states" in kwargs:
                kwargs = {**kwargs, "hidden_states": edit(kwargs["hidden_states"])}
            return args, kwargs

        hooks.remove_new_hooks(undo, module)
        module.register_forward_pre_hook(hook, with_kwargs=True)

    def tap_module(self, undo: ExitStack, module: nn.Module, before: Edit, after: Edit) -> None:
        """Let `before` replace the first input of any module and `after` its first output."""
        before, after = _own_thread(before), _own_thread(after)

        def hook(_: nn.Module, __: Any, out: Any) -> Any:
            if isinstance(out, list):  # GPT-1's blocks
                return [after(out[0]), *out[1:]]
            return (after(out[0]), *out[1:]) if isinstance(out, tuple) else after(out)

        self._pre_hook(undo, module, before)
        hooks.remove_new_hooks(undo, module)
        module.register_forward_hook(hook)

    def last_step_facts(self) -> tuple[Any, ...]:
        """Ids of the torch hooks that can edit the logits after the final state was read, and the
        parameters that make them."""
        model = self.model
        modules = [model, *model.unembed.modules()]
        modules += [m for m in [getattr(model, "original_model", None)] if m is not None]
        stores = [s for m in modules for s in internals.before_and_after(m, "forward")]
        made = hooks.parameters(model.unembed.modules())
        return (*(h for own in stores for h in own), *hooks.everywhere("forward"), *made)

    def forward(self, tokens: Tensor, **past: Any) -> Any:
        """The model's own forward pass to logits over right-padded rows of token ids; `past`: its cache.

        Causal attention never looks right, so padding needs no mask. A bridge makes none of its own,
        and not every one takes a mask of ones for none (OpenAI-GPT's looks ahead under it); a
        HookedTransformer would make one of pad tokens that belong to the prompt.
        """
        own = {"use_cache": False}
        given = own if self.is_bridge else {"attention_mask": torch.ones_like(tokens)}
        return failures.named(self, functools.partial(self.model, tokens, **(given | past)))

    def last_step_is_hooked(self) -> bool:
        """Whether hooks of the user's sit on the unembedding, where they may edit any position."""
        points = [p for name, p in self.hooks.items() if name.startswith("unembed.")]
        return hooks.any_of_users(points, "forward")

    def is_hooked(self) -> bool:
        """Whether hooks of the user's are on the model: they may count on the whole prompt."""
        return hooks.any_of_users(self.every_module(), "forward")

    def is_hooked_inside(self, block: nn.Module) -> bool:
        """Whether hooks, TransformerLens's wiring aside, sit on the modules below `block`."""
        inside = guards.every_module(block)[1:]
        return hooks.any_of_users(inside, "forward", "backward")

    def every_module(self) -> list[nn.Module]:
        """Every module, each once, those that the wrapped model alone holds included."""
        return self._modules or guards.modules_of(self.model)

    def users_hooks(self, *directions: str) -> list[str]:
        """Where hooks of the user's are, "forward" or "backward": names of hook points or modules."""
        return hooks.of_users(self.model, self.every_module(), self.hooks, *directions)

    def circumstances(self) -> tuple[Any, ...]:
        """What a finding about this model's passes holds under: equal as long as nothing changed."""
        return self.dtype, self.device, hooks.circumstances(self.every_module())

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Gradients on, parameters frozen, one caller at a time; everything put back on exit."""
        with self.lock:
            modules = self.every_module()
            thawed = [p for p in guards.every_parameter(modules) if p.requires_grad]
            try:
                self._hooks, self._modules = self.hooks, modules
                self.taps().callback(_thaw, thawed)
                for p in thawed:
                    p.requires_grad_(False)
                # Autocast would compute in another dtype than the one the result names.
                plain = torch.autocast(self.device.type, enabled=False)
                with torch.inference_mode(False), torch.enable_grad(), plain:
                    yield
            finally:
                self._hooks = self._modules = None
                forks.close(self._stacks)

    def disown(self) -> None:
        """In a forked child: undo what a call has set up in a thread that was not taken along."""
        if forks.is_orphaned(self.lock):
            self.lock, self._hooks, self._modules = threading.RLock(), None, None
            with suppress(RuntimeError):  # of a lock in there that was that thread's
                forks.close(self._stacks)

    def provenance(self) -> Provenance:
        dtype, precise = self.dtype, working_dtype(self.dtype)
        short = {d: str(d).removeprefix("torch.") for d in (dtype, precise)}
        return Provenance(
            model=str(getattr(self.cfg, "model_name", None) or "custom"),
            model_class=guards.transformer_lens_class(self.model) or type(self.model).__name__,
            dtype=short[dtype],
            device=str(self.device),
            processing=guards.processing(self.model).description,
            precision=f"differentiated in {short[dtype]}, norms reduced in {short[precise]}",
            versions=dict(_versions()),
            hooks=tuple(self.users_hooks("forward", "backward")),
        )


def _own_thread(edit: Edit) -> Edit:
    """`edit` for this thread's forward passes only: others may run the model meanwhile."""
    owner = threading.get_ident()
    return lambda a: edit(a) if threading.get_ident() == owner else a


def _thaw(parameters: list[nn.Parameter]) -> None:
    for p in parameters:
        p.requires_grad_(True)


_views: weakref.WeakKeyDictionary[Any, ModelView] = weakref.WeakKeyDictionary()
forks.in_child(lambda: [found.disown() for found in list(_views.values())])


def view_of(model: Any) -> ModelView:
    """The view of `model`, after every check that does not need a prompt.

    Raises `UnsupportedModelError` or `TrainingModeError`.
    """
    modules = guards.refuse_unsupported(model)
    found = _views.get(model)
    if found is None:
        found = _views.setdefault(model, ModelView(model))
    found.learn_hooks(modules)
    return found


@functools.cache
def _versions() -> dict[str, str]:
    found = {}
    for package in ("tl_scopes", "transformer_lens", "torch", "transformers"):
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
