"""Code that comes with a model: whatever a folder holds, none of it runs unless the user says so."""

from __future__ import annotations

import functools
import json
import os
import pickle
import pty
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
import transformers
from safetensors.torch import load_file

from support.cli_calls import call, refused, save_tiny
from support.threads import elsewhere
from tl_scopes import models
from tl_scopes.errors import ModelUnavailableError
from tl_scopes.models import foreign, installed, loading, quiet

BACKENDS = sorted(installed.model_classes())
TEXT = "The capital of France is"


@pytest.fixture
def marker(tmp_path, monkeypatch) -> Path:
    """A file that code of a model would make."""
    path = tmp_path / "it-ran"
    monkeypatch.setenv("MARKER", str(path))
    # As users may have them; they are no argument of `load`.
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    monkeypatch.setenv("HF_HUB_TRUST_REMOTE_CODE", "1")
    return path


@pytest.fixture
def folder(tmp_path, marker) -> Path:
    return Path(save_tiny(tmp_path / "model"))


EVIL = "import os\nopen(os.environ['MARKER'], 'w').close()\n"
MODELING = """
from transformers import LlamaConfig, LlamaForCausalLM
class Config(LlamaConfig):
    model_type = "of-its-own"
class Model(LlamaForCausalLM):
    config_class = Config
"""
CLASSES = {"AutoConfig": "modeling_own.Config", "AutoModelForCausalLM": "modeling_own.Model"}


def write(path: Path, text: str) -> None:
    """Code of this folder alone: what a process has run once is not run again."""
    path.write_text(f"# {path}\n{EVIL}\n{text}")


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def own_model(folder: Path) -> None:
    write(folder / "modeling_own.py", MODELING)
    edit(folder / "config.json", model_type="of-its-own", auto_map=CLASSES)


def own_tokenizer(folder: Path) -> None:
    text = (
        "from transformers import PreTrainedTokenizerFast\nclass Own(PreTrainedTokenizerFast): ..."
    )
    write(folder / "tokenizer_own.py", text)
    changes = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": [None, "tokenizer_own.Own"]}}
    edit(folder / "tokenizer_config.json", **changes)


def own_generation(folder: Path) -> None:
    (folder / "custom_generate").mkdir()
    write(folder / "custom_generate" / "generate.py", "def generate(*a, **k): ...")


class Runs:
    def __reduce__(self):
        return exec, (EVIL,)


def own_pickle(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights | {"more": Runs()}, folder / "pytorch_model.bin")


def adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "someone/else"}')


KINDS = [
    (own_model, ["modeling_own.py", "trust_remote_code=True"]),
    (own_tokenizer, ["tokenizer_own.py", "trust_remote_code=True"]),
    (own_generation, ["custom_generate/generate.py", "trust_remote_code=True"]),
    (adapter, ["adapter_config.json", "merge_and_unload"]),  # it names a base elsewhere
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("spoil", "words"), KINDS)
def test_code_is_refused_by_name(folder, marker, backend, spoil, words, monkeypatch):
    spoil(folder)
    read = Mock(wraps=transformers.AutoModelForCausalLM.from_pretrained)
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", read)
    with pytest.raises(ModelUnavailableError) as caught:
        models.load(folder, backend)
    assert all(word in str(caught.value) for word in words)
    assert not marker.exists() and not read.called


def test_the_command_asks_nothing(folder, marker):
    """In a process of its own, at a terminal where somebody has typed yes already."""
    own_model(folder)
    parent, child = pty.openpty()
    os.write(parent, b"y\ny\ny\n")
    command = [sys.executable, "-m", "tl_scopes.cli", "attribute", TEXT, "--model", str(folder)]
    done = subprocess.run(command, stdin=child, capture_output=True, text=True, timeout=120)
    os.close(parent)
    os.close(child)
    assert done.returncode == 2 and "--trust-remote-code" in done.stderr
    assert done.stderr.count("\n") == 1 and "[y/N]" not in done.stderr + done.stdout
    assert not marker.exists()


def test_code_runs_where_the_user_says_so(folder, marker):
    own_model(folder)
    if "bridge" in BACKENDS:
        model = models.load(folder, "bridge", trust_remote_code=True)
        assert model.cfg.model_name == "model"
    if "hooked" in BACKENDS:  # HookedTransformer converts architectures that it knows only
        with pytest.raises(ModelUnavailableError, match=r"of its own, 'of-its-own'.*architecture="):
            models.load(folder, "hooked", trust_remote_code=True)
    assert marker.exists()
    marker.unlink()
    with pytest.raises(ModelUnavailableError, match="trust_remote_code"):
        models.load(folder)
    assert not marker.exists()


def test_the_option_of_the_command(folder, marker):
    own_tokenizer(folder)
    assert "tokenizer_own.py" in refused(call("attribute", TEXT, "--model", str(folder)))
    assert not marker.exists()
    args = ["--model", str(folder), "--trust-remote-code", "--json"]
    result = call("attribute", TEXT, *args)
    assert result.exit_code == 0, result.stderr
    assert marker.exists()
    assert "No such option" in refused(call("app", "--trust-remote-code"))


@pytest.mark.parametrize("backend", BACKENDS)
def test_where_transformers_knows_the_architecture_its_own_is_used(folder, marker, backend):
    expected = models.load(folder, backend)
    write(folder / "modeling_own.py", MODELING)
    edit(folder / "config.json", auto_map=CLASSES)
    ids = torch.tensor([[1, 5, 6]])
    with torch.no_grad():
        torch.testing.assert_close(models.load(folder, backend)(ids), expected(ids))
    assert not marker.exists()


@pytest.mark.wrong_types
@pytest.mark.parametrize("answer", ["yes", 1, None])
def test_trust_is_true_or_false(folder, answer):
    with pytest.raises(ModelUnavailableError, match="allowed: True, False"):
        models.load(folder, trust_remote_code=answer)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_pickle_is_read_for_tensors_alone(folder, marker, backend, monkeypatch):
    expected = models.load(folder, backend).state_dict()
    own_pickle(folder)
    for value in ("0", "1"):  # what torch reads where a caller does not say how to unpickle
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", value)
        with pytest.raises(ModelUnavailableError, match=r"pickle.*safetensors"):
            models.load(folder, backend)
    assert not marker.exists()
    with pytest.raises(pickle.UnpicklingError):
        torch.load(folder / "pytorch_model.bin", weights_only=True)
    weights = torch.load(folder / "pytorch_model.bin", weights_only=False)  # ours
    assert marker.exists()
    del weights["more"]
    torch.save(weights, folder / "pytorch_model.bin")
    got = models.load(folder, backend).state_dict()
    assert all(torch.equal(got[name], expected[name]) for name in expected)


def test_pickles_that_transformer_lens_would_let_run(tmp_path, marker, monkeypatch):
    """Models published for HookedTransformer alone: `torch.load(..., weights_only=False)`."""
    monkeypatch.delenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", raising=False)
    torch.save({"more": Runs()}, tmp_path / "final.pth")
    with quiet.undisturbed():
        foreign.weights_only()
        with pytest.raises(pickle.UnpicklingError):
            torch.load(tmp_path / "final.pth", weights_only=False)
    assert not marker.exists() and "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ
    if "hooked" not in BACKENDS:
        return
    hooked, seen = installed.model_classes()["hooked"], {}

    def fetch(name, **options):
        seen.update(options, weights_only=os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD"))
        return torch.load(tmp_path / "final.pth", weights_only=False)

    monkeypatch.setattr(hooked, "from_pretrained_no_processing", fetch)
    with pytest.raises(ModelUnavailableError, match="pickle"):
        models.load("solu-1l", "hooked", progress=False)
    assert not marker.exists() and seen["weights_only"] == "1" and "trust_remote_code" not in seen


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("key", ["_attn_implementation", "_attn_implementation_internal"])
def test_no_kernel_that_a_config_names_is_fetched(folder, backend, key):
    """`kernels` fetches the repository of that name from the hub and runs it."""
    edit(folder / "config.json", **{key: "someone/kernel"})
    model = models.load(folder, backend)
    if backend == "bridge":
        assert model.original_model.config._attn_implementation == "eager"


@pytest.mark.parametrize("backend", BACKENDS)
def test_code_that_transformer_lens_imports_unasked(folder, marker, backend, monkeypatch):
    """For some architectures, by the model's name, which is that of a folder here."""
    write(folder / "modeling_openelm.py", "class OpenELMForCausalLM: ...")
    edit(folder / "config.json", architectures=["OpenELMForCausalLM"])
    monkeypatch.chdir(folder.parent)
    with pytest.raises(ModelUnavailableError):
        models.load(folder.name, backend)
    assert not marker.exists()


def test_names_that_transformer_lens_trusts_by_itself(folder, marker, monkeypatch):
    """It passes trust_remote_code=True for them, whatever it was given."""
    own_model(folder)
    cls = installed.model_classes()[BACKENDS[0]]
    method = "boot_transformers" if BACKENDS[0] == "bridge" else "from_pretrained_no_processing"
    auto = transformers.AutoConfig
    trusting = [{"trust_remote_code": True}, {}]
    monkeypatch.setattr(
        cls, method, lambda *a, **k: auto.from_pretrained(folder, **trusting.pop(0))
    )
    for _ in range(2):  # and where it says nothing, nobody is asked
        monkeypatch.setattr("builtins.input", lambda text: pytest.fail(text))
        with pytest.raises(ModelUnavailableError, match="trust_remote_code=True"):
            models.load("microsoft/phi-2", BACKENDS[0], progress=False)
    assert not marker.exists()


def test_other_threads_may_run_what_they_trust(folder, marker):
    own_model(folder)
    read = functools.partial(
        transformers.AutoConfig.from_pretrained, folder, trust_remote_code=True
    )
    with foreign.refused(folder, False):
        assert elsewhere(read).model_type == "of-its-own"
    assert marker.exists()


DEVICES = ["meta", "cudda", "cuda:99", "xpu:7", "mps:5", "vulkan", "", "cpu cpu", 3.5]


@pytest.mark.parametrize("device", DEVICES)
def test_a_device_that_cannot_be_used_is_named(folder, device, monkeypatch):
    monkeypatch.setattr(
        loading, "from_folder", lambda *a: pytest.fail("it was loaded all the same")
    )
    with pytest.raises(ModelUnavailableError) as caught:
        models.load(folder, device=device)
    assert f"the device {str(device)!r} cannot be used" in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_a_gpu_that_is_not_there_is_named_before_anything_is_fetched(monkeypatch):
    monkeypatch.setattr(loading, "ensure", lambda *a, **k: pytest.fail("it was converted first"))
    for name in ("gemma-3-270m", "gpt2"):
        with pytest.raises(ModelUnavailableError, match="the device 'cuda' cannot be used"):
            models.load(name, device="cuda")
