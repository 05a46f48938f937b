"""Folders as HookedTransformers, of any size: transformer-lens knows Gemmas by their published names alone."""

from __future__ import annotations

import pytest
import torch

from support import zoo
from support.zoo_tables import WINDOW
from tl_scopes import models

pytestmark = pytest.mark.skipif(zoo.HookedTransformer is None, reason="transformer-lens >= 4")
IDS = torch.tensor([zoo.tokenizer()(zoo.LONG_TEXT).input_ids])


@pytest.mark.parametrize("name", ["gpt2", "gemma", "gemma2", "gemma3"])
def test_it_is_the_folders_model(name, tmp_path):
    source = zoo.hf_model(name, torch.float32)
    source.save_pretrained(tmp_path)
    zoo.tokenizer().save_pretrained(tmp_path)
    model = models.load(tmp_path, "hooked")
    assert type(model) is zoo.HookedTransformer and model.cfg.original_architecture in str(
        type(source)
    )
    assert IDS.shape[1] > 2 * WINDOW, "windows of attention would not show"
    with torch.no_grad():
        torch.testing.assert_close(model(IDS), source(IDS).logits, rtol=1e-4, atol=1e-4)
