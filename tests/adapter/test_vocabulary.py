"""Texts of single tokens and the tokens that texts name, over vocabularies of SentencePiece's kind and byte-level ones.

There is no Llama tokenizer without a network: small ones are built as transformers builds them, of the legacy kind
(a normalizer puts "▁" in front) and the newer one (a pre-tokenizer does).
"""

from __future__ import annotations

import functools
import re
from typing import Any

import pytest
import torch

import tl_scopes as ts
from support import real_models, zoo
from support.pictures import printed
from support.sentencepieces import BUNDLED, KINDS, sentencepiece
from tl_scopes.adapter import prompts, vocabulary
from tl_scopes.adapter.view import view_of
from tl_scopes.errors import TargetError
from tl_scopes.render.tokens import visible
from tl_scopes.results.characters import together

ADD_SPACE = ["legacy", "llama", "mistral", "metaspace"]


@functools.cache
def tiny(kind: str) -> Any:
    """A model with that vocabulary, of whichever class there is."""
    made = sentencepiece(kind)
    changes = dict(d_vocab=len(made), d_vocab_out=len(made))
    if zoo.HookedTransformer is not None:
        config = zoo.HookedTransformerConfig(
            **zoo.HOOKED_COMMON | zoo.RAW_HOOKED["rms"][0] | changes, dtype=torch.float32
        )
        return zoo.HookedTransformer(config, tokenizer=made).eval()
    config = zoo.TransformerBridgeConfig(
        **zoo.HOOKED_COMMON | next(iter(zoo.NATIVE_BRIDGE.values()))[0] | changes
    )
    return zoo.TransformerBridge.boot_native(
        config, tokenizer=made, device="cpu", dtype=torch.float32
    ).eval()


def piece(kind: str, target: str) -> str:
    token = prompts.resolve_token(view_of(tiny(kind)), target)
    return sentencepiece(kind).convert_ids_to_tokens(token.id)


def refused(model: Any, target: str) -> str:
    with pytest.raises(TargetError) as caught:
        prompts.resolve_token(view_of(model), target)
    return str(caught.value)


@pytest.mark.parametrize("kind", ADD_SPACE)
def test_a_prompt_shows_its_spaces(kind):
    found = ts.attribute(tiny(kind), "The capital of France is", ts.SemanticScope())
    assert found.str_tokens == ("<s>", " The", " capital", " of", " France", " is")
    assert found.group().str_tokens == found.str_tokens
    assert "<s>·The·capital·of·France·is" in printed(found)


def test_a_vocabulary_that_puts_no_space_in_front_shows_none():
    found = ts.attribute(tiny("gemma"), " The capital of", ts.SemanticScope())
    assert found.str_tokens == ("<s>", " The", " capital", " of")


@pytest.mark.parametrize("kind", KINDS)
def test_entries_that_differ_are_shown_differently(kind):
    made = sentencepiece(kind)
    texts = vocabulary.texts(made, range(len(made)))
    assert len({visible(text) for text in texts}) == len(made)
    by_piece = dict(zip(made.convert_ids_to_tokens(list(range(len(made)))), texts))
    assert [by_piece[p] for p in ("▁is", "is", "▁", "▁▁")] == [" is", "is", " ", "  "]
    if kind != "metaspace":  # which has no bytes
        assert by_piece["<0x0A>"] == "\n" and by_piece["<0xE6>"] == "<0xE6>"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("target", "wanted"),
    [
        (" in", "▁in"),
        ("▁in", "▁in"),
        ("in", "in"),
        (" Paris", "▁Paris"),
        ("▁Paris", "▁Paris"),
        ("pit", "pit"),
        (" ", "▁"),
        ("s", "s"),
    ],
)
def test_a_space_in_front_begins_a_word_and_none_goes_on_in_one(kind, target, wanted):
    assert piece(kind, target) == wanted


@pytest.mark.parametrize("kind", ["legacy", "llama", "mistral", "gemma"])
def test_what_a_token_shows_names_it_too(kind):
    made = sentencepiece(kind)
    texts = vocabulary.texts(made, range(len(made)))
    assert [vocabulary.find(made, text) for text in texts[3:]] == [*range(3, len(made))]
    assert piece(kind, "\n") == "<0x0A>"


@pytest.mark.parametrize("kind", ADD_SPACE)
def test_the_other_spelling_is_named_where_only_that_is_a_token(kind):
    said = refused(tiny(kind), "Paris")
    assert "' Paris', with a leading space, is one token" in said
    said = refused(tiny(kind), " pit")
    assert "'pit', without a leading space, is one token" in said
    assert "[' Paris', 'pit']" in refused(tiny(kind), " Parispit")


@pytest.mark.parametrize("kind", ["legacy", "llama", "mistral", "gemma"])
def test_bytes_are_put_together(kind):
    found = ts.attribute(tiny(kind), "The 日本 🪿", ts.SemanticScope())
    assert found.str_tokens[-4:] == ("<0xF0>", "<0x9F>", "<0xAA>", "<0xBF>")
    assert found.group().str_tokens[-3:] == (" 日", "本", " 🪿")
    text = "".join(found.group().str_tokens[1:])
    assert text.removeprefix(" ") == "The 日本 🪿"


def test_texts_of_a_prompt_in_which_the_tokenizer_put_a_space_are_found_as_they_were_written():
    prompt = "The capital of France is"
    found = ts.attribute(tiny("legacy"), prompt, ts.SemanticScope())
    for by in (["The capital", "France"], [(prompt, 0, 11), (prompt, 15, 21)]):
        assert found.group(by).spans == ((0, 1), (1, 3), (3, 4), (4, 5), (5, 6))


@pytest.mark.real
@pytest.mark.parametrize("name", BUNDLED)
def test_of_a_whole_vocabulary_only_what_was_lost_is_shown_otherwise(name):
    tokenizer = real_models.shared(name).tokenizer
    ids = [*range(1500), *range(1500, len(tokenizer), 61)]
    texts = vocabulary.texts(tokenizer, ids)
    alone = tokenizer.batch_decode([[i] for i in ids], clean_up_tokenization_spaces=False)
    pieces = tokenizer.convert_ids_to_tokens(ids)
    for text, before, spelled in zip(texts, alone, pieces):
        lost = "\ufffd" in before or re.fullmatch("<0x..>", spelled)
        assert text == before or (lost and re.fullmatch(" *(<0x[0-9A-F]{2}>)+", text))
    assert len(set(map(visible, texts))) == len(ids)
    for i, text in [*zip(ids, texts)][::37]:
        assert vocabulary.find(tokenizer, text) in (i, None)


@pytest.mark.real
def test_predicted_parts_of_characters_print_apart():
    model = real_models.shared("smollm2-135m-instruct")
    found = ts.attribute(model, "日本の首都は東京です。韓", ts.SemanticScope())
    texts = [c.text for c in found.prediction]
    assert len(set(texts)) == 10 and "\ufffd" not in "".join(texts)
    assert sum(text.startswith("<0xE") for text in texts) > 3
    target = found.prediction[0]
    again = ts.attribute(model, "日本の首都は東京です。韓", ts.SemanticScope(target.text))
    assert again.target.id == target.id and torch.equal(again.scores, found.scores)


@pytest.mark.real
@pytest.mark.parametrize("name", BUNDLED)
def test_the_error_for_several_tokens_names_every_way_out(name):
    model = real_models.shared(name)
    said = refused(model, " Paris is")
    assert "2 tokens [' Paris', ' is']" in said and "one of its tokens, or an id" in said
    assert "attribute_sequence(model, prompt + answer, SemanticScope(NEXT_TOKEN))" in said
    whole = ts.attribute_sequence(
        model, "The capital of France" + " is Paris", ts.SemanticScope(ts.NEXT_TOKEN)
    )
    assert [t.text for t in whole.targets][-2:] == [" is", " Paris"]
    said = refused(model, "Eiffelturm" * 20)
    assert len(said) < 700 and "..." in said


@pytest.mark.real
def test_a_replacement_character_of_the_prompt_is_no_lost_byte():
    found = ts.attribute(
        real_models.shared("smollm2-135m-instruct"), "a \ufffd b", ts.SemanticScope()
    )
    assert together(found.str_tokens[1:]) == "a \ufffd b"
    assert "<0x" not in "".join(found.group().str_tokens)


@pytest.mark.parametrize("kind", KINDS)
def test_a_byte_that_an_entry_is_too_is_shown_as_a_byte(kind):
    """Also a space, which some decoders drop in front of a text."""
    tokenizer = sentencepiece(kind)
    byte, space = tokenizer.convert_tokens_to_ids(["<0x20>", "▁"])
    assert vocabulary.texts(tokenizer, [byte, space]) == ["<0x20>", " "]
    assert vocabulary.find(tokenizer, "<0x20>") == byte
