"""Which models and environments a test is run on."""

from __future__ import annotations

import importlib.util

import pytest

from support import zoo

MODELS = zoo.known("hooked/llama", "bridge/llama")
each_class = pytest.mark.parametrize("name", MODELS)


def each_of(*architectures: str) -> pytest.MarkDecorator:
    """On each class that there is."""
    names = [name for name in zoo.names() if name.split("/")[1] in architectures]
    return pytest.mark.parametrize("name", names)


# What the package learns of a model on first use must not hide what a user does later.
each_use = pytest.mark.parametrize("used", [False, True], ids=["first call", "later call"])
needs_bridge = pytest.mark.skipif(zoo.TransformerBridge is None, reason="transformer-lens < 3")
needs_streamlit = pytest.mark.skipif(
    importlib.util.find_spec("streamlit") is None, reason="needs the extra app"
)
