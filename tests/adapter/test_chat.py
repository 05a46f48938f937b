"""Messages of a chat as prompts: what the template writes, one BOS, and whose each token is."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import tokenizers
import torch
import transformers
from tokenizers import decoders, models, pre_tokenizers, processors

import tl_scopes as ts
from support import real_models, zoo
from support.chats import (
    CHATML,
    GEMMA,
    LLAMA,
    MISTRAL,
    QWEN,
    TOOLS,
    assistant,
    system,
    tool,
    user,
)
from support.marks import MODELS, each_class
from support.refusals import refused
from tl_scopes import baselines, circuits, evaluation
from tl_scopes.adapter.chat import written
from tl_scopes.adapter.prompts import encode
from tl_scopes.adapter.view import view_of
from tl_scopes.errors import DataError, EmptyPromptError, PromptError

pytestmark = pytest.mark.wrong_types
S = ts.SemanticScope()
WRITTEN_TOOLS = json.dumps(TOOLS)
CALL = {"type": "function", "function": {"name": "at", "arguments": {"x": 'a "b"', "n": 3}}}
ASKED = [user("Hi  there"), assistant("Hi"), user(" Hi <b>x</b> ")]


def said(message: int, text: str) -> tuple[int, bool, str]:
    return message, True, text


def made(message: int, text: str) -> tuple[int, bool, str]:
    return message, False, text


# Name: template, conversation, what stands beside it, and the parts of the text by hand.
CHATS = {
    "a system message of the template's own": (
        *(CHATML, ASKED, {}),
        [
            *(made(-1, "<|s|>system\nBe kind.<|e|>\n"), made(0, "<|s|>user\n")),
            *(said(0, "Hi  there"), made(0, "<|e|>\n")),
            *(made(1, "<|s|>assistant\n"), said(1, "Hi"), made(1, "<|e|>\n")),
            *(made(2, "<|s|>user\n"), said(2, " Hi <b>x</b> "), made(2, "<|e|>\n")),
            made(3, "<|s|>assistant\n"),
        ],
    ),
    "an answer that goes on": (
        *(CHATML, [system("s"), user("x"), assistant("So ")], {}),
        [
            *(made(0, "<|s|>system\n"), said(0, "s"), made(0, "<|e|>\n")),
            *(made(1, "<|s|>user\n"), said(1, "x"), made(1, "<|e|>\n")),
            *(made(2, "<|s|>assistant\n"), said(2, "So ")),
        ],
    ),
    "an empty message": (
        *(CHATML, [system("s"), assistant(""), user("x")], {}),
        [
            *(made(0, "<|s|>system\n"), said(0, "s"), made(0, "<|e|>\n")),
            made(1, "<|s|>assistant\n<|e|>\n"),
            *(made(2, "<|s|>user\n"), said(2, "x"), made(2, "<|e|>\n")),
            made(3, "<|s|>assistant\n"),
        ],
    ),
    "stripped contents": (
        *(LLAMA, [system(" Be\nnice. "), *ASKED], {}),
        [
            *(made(-1, "<bos>"), made(0, "<|h|>system<|/h|>\n\nToday is Monday.\n")),
            *(said(0, "Be\nnice."), made(0, "<|e|>")),
            *(made(1, "<|h|>user<|/h|>\n\n"), said(1, "Hi  there"), made(1, "<|e|>")),
            *(made(2, "<|h|>assistant<|/h|>\n\n"), said(2, "Hi"), made(2, "<|e|>")),
            *(made(3, "<|h|>user<|/h|>\n\n"), said(3, "Hi <b>x</b>"), made(3, "<|e|>")),
            made(4, "<|h|>assistant<|/h|>\n\n"),
        ],
    ),
    "tools without a system message": (
        *(LLAMA, [user("x")], {"tools": TOOLS}),
        [
            made(
                -1,
                f"<bos><|h|>system<|/h|>\n\nToday is Monday.\nTools: {WRITTEN_TOOLS}\n<|e|>",
            ),
            *(made(0, "<|h|>user<|/h|>\n\n"), said(0, "x"), made(0, "<|e|>")),
            made(1, "<|h|>assistant<|/h|>\n\n"),
        ],
    ),
    "a system message in the user's turn": (
        *(GEMMA, [system("x x"), user("x"), assistant("x"), user("x x")], {}),
        [
            *(made(-1, "<bos><start>user\n"), said(0, "x x"), made(-1, "\n\n"), said(1, "x")),
            *(made(1, "<end>\n"), made(2, "<start>model\n"), said(2, "x"), made(2, "<end>\n")),
            *(made(3, "<start>user\n"), said(3, "x x"), made(3, "<end>\n")),
            made(4, "<start>model\n"),
        ],
    ),
    "a system message and tools in the last turn": (
        *(MISTRAL, [system("x"), *ASKED], {"tools": TOOLS}),
        [
            *(made(-1, "<bos>"), made(1, "[INST] "), said(1, "Hi  there"), made(1, "[/INST]")),
            *(made(2, " "), said(2, "Hi"), made(2, "<eos>")),
            *(made(-1, f"[TOOLS]{WRITTEN_TOOLS}[/TOOLS][INST] "), said(0, "x")),
            *(made(-1, "\n\n"), said(3, " Hi <b>x</b> "), made(3, "[/INST]")),
        ],
    ),
    "thoughts left out": (
        *(QWEN, [user("x"), assistant("<think>\nwhy x\n</think>\n\nx y"), user("z")], {}),
        [
            *(made(0, "<|s|>user\n"), said(0, "x"), made(0, "<|e|>\n")),
            *(made(1, "<|s|>assistant\n"), said(1, "x y"), made(1, "<|e|>\n")),
            *(made(2, "<|s|>user\n"), said(2, "z"), made(2, "<|e|>\n")),
            made(3, "<|s|>assistant\n"),
        ],
    ),
    "calls and answers of tools": (
        *(QWEN, [user("x"), assistant("", tool_calls=[CALL]), tool("a"), tool("b")]),
        {"chat_template_kwargs": {"enable_thinking": False}},
        [
            *(made(0, "<|s|>user\n"), said(0, "x"), made(0, "<|e|>\n")),
            *(made(1, '<|s|>assistant\n<call>{"name": "'), said(1, "at")),
            *(made(1, '", "arguments": {"x": "'), said(1, "a"), made(1, " ")),
            *(said(1, '\\"b\\"'), made(1, '", "n": 3}}</call><|e|>\n')),
            *(made(2, "<|s|>user\n<response>"), said(2, "a")),
            *(made(-1, "</response><response>"), said(3, "b"), made(3, "</response><|e|>\n")),
            made(4, "<|s|>assistant\n<think>\n\n</think>\n\n"),
        ],
    ),
    "text that looks like a tool's": (
        *(QWEN, [user("x"), user("<response> x </response>")], {}),
        [
            *(made(0, "<|s|>user\n"), said(0, "x"), made(0, "<|e|>\n")),
            *(made(1, "<|s|>user\n"), said(1, "<response> x </response>"), made(1, "<|e|>\n")),
            made(2, "<|s|>assistant\n"),
        ],
    ),
}


@pytest.mark.parametrize("name", CHATS)
def test_it_is_known_whose_each_character_is(name):
    template, messages, beside, parts = CHATS[name]
    prompt = {"messages": messages, "chat_template": template, **beside}
    found = written(prompt, zoo.tokenizer())
    assert found.text == "".join(text for _, _, text in parts)
    assert found.owners == [message for message, _, text in parts for _ in text]
    assert found.is_content == [inside for _, inside, text in parts for _ in text]
    answers = messages[-1]["role"] == "assistant"
    roles = [message["role"] for message in messages]
    assert found.roles == (*roles, *([] if answers else ["assistant"]))


def byte_tokenizer(trim_offsets: bool):
    """Of GPT-2's kind: one token a byte, but for a few words; may say that whitespace is no part of them."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["ĠH", "ĠHi", "Ċ", ".Ċ", ".ĊĊ", "Hi"]
    vocabulary = {t: i for i, t in enumerate(["<bos>", "<eos>", *letters, "ĊĊ", *words])}
    merges = [("Ġ", "H"), ("ĠH", "i"), ("Ċ", "Ċ"), (".", "ĊĊ"), (".", "Ċ"), ("H", "i")]
    core = tokenizers.Tokenizer(models.BPE(vocabulary, merges))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.post_processor = processors.ByteLevel(trim_offsets=trim_offsets)
    core.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<bos>", eos_token="<eos>"
    )


@pytest.mark.parametrize("trim_offsets", [True, False])
def test_a_token_is_content_where_it_holds_any(trim_offsets):
    tokenizer = byte_tokenizer(trim_offsets)
    template = (
        "{% for m in messages %}#{{ m['role'][0] }} {{ m['content'] }}\n\n{% endfor %}"
        "{% if add_generation_prompt %} Hi{% endif %}"
    )
    messages = [system("Hi."), assistant("né Hi"), user("Hi")]
    ids, owners, is_content = written(
        {"messages": messages, "chat_template": template}, tokenizer
    ).tokens(tokenizer)
    pieces = [p.replace("Ġ", " ").replace("Ċ", "\n") for p in tokenizer.convert_ids_to_tokens(ids)]
    assert list(zip(owners, is_content, pieces)) == [
        *(made(0, "#"), made(0, "s"), said(0, " Hi"), said(0, ".\n\n")),
        *(made(1, "#"), made(1, "a"), made(1, " "), said(1, "n"), said(1, "Ã"), said(1, "©")),
        *(said(1, " Hi"), made(1, "\n\n"), made(2, "#"), made(2, "u")),
        *(said(2, " Hi"), made(2, "\n\n"), made(3, " Hi")),
    ]


@pytest.mark.parametrize("trim_offsets", [True, False])
def test_a_space_of_a_message_makes_no_content_of_the_template_s_word(trim_offsets):
    """One token holds the space that ends a message, and the word that the template puts after it."""
    tokenizer = byte_tokenizer(trim_offsets)
    template = "{% for m in messages %}#{{ m['content'] }}Hi{% endfor %}{% if add_generation_prompt %}.{% endif %}"
    found = written({"messages": [user("n ")], "chat_template": template}, tokenizer)
    ids, owners, is_content = found.tokens(tokenizer)
    pieces = tokenizer.convert_ids_to_tokens(ids)
    assert list(zip(owners, is_content, pieces)) == [
        *(made(0, "#"), said(0, "n"), made(0, "ĠHi"), made(1, "."))
    ]


@each_class
def test_one_bos_wherever_it_comes_from(name):
    model = zoo.build(name)
    view, bos = view_of(model), model.tokenizer.bos_token_id
    messages = [system("The cat"), user("is not")]
    for template in (SHORT, "{{ bos_token }}" + SHORT):
        model.tokenizer.chat_template = template
        text = model.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        plain = model.tokenizer(text, add_special_tokens=False)["input_ids"]
        own = [] if plain[0] != bos else [bos]
        rest = plain[len(own) :]
        for prepend in (None, True, False):
            # A BOS of the template stays; else the model's own default decides, as for text.
            expected = own or encode(view, "The", prepend)[:-1]
            ids = encode(view, messages, prepend)
            assert list(ids) == [*expected, *rest] and ids.chat is not None
            assert len(ids.chat.messages) == len(ids.chat.is_content) == len(ids)
            if ids[0] == bos:
                assert ids.chat.messages[0] == -1 and not ids.chat.is_content[0]


SHORT = "{% for m in messages %}{{ m['content'] }}.{% endfor %}{% if add_generation_prompt %},{% endif %}"
MESSAGES = [system("The cat"), user("not Paris")]
TEXT = "The cat.not Paris.,"


@each_class
def test_results_are_those_of_the_text_and_know_the_messages(name):
    model = zoo.build(name)
    model.tokenizer.chat_template = SHORT
    fields = [
        ts.attribute(model, MESSAGES, S),
        *ts.attribute_batch(model, [TEXT, {"messages": MESSAGES}], S)[1:],
        baselines.InputXGradient().attribute(model, tuple(MESSAGES)),
        ts.attribute(model, MESSAGES, S, stability=model.cfg.dtype is torch.float32),
    ]
    expected = [
        ts.attribute(model, TEXT, S),
        ts.attribute(model, TEXT, S),
        baselines.InputXGradient().attribute(model, TEXT),
        ts.attribute(model, TEXT, S),
    ]
    for found, same in zip(fields, expected):
        torch.testing.assert_close(found.scores, same.scores)
        assert found.str_tokens == same.str_tokens and same.chat is None
        assert found.chat is not None and found.chat.roles == ("system", "user", "assistant")
        whose = list(zip(found.chat.messages, found.chat.is_content, found.str_tokens))
        assert whose == [
            *(made(-1, "<bos>"), said(0, "The"), said(0, " cat"), made(0, ".")),
            *(said(1, text) for text in found.str_tokens[4:8]),
            *(made(1, "."), made(2, ",")),
        ]
    answer = ts.ContinuationScope(" Rome", versus=" Mary and")
    for scope, more in ((answer, 0), (replace(answer, versus=None), 1)):
        chat = ts.attribute(model, MESSAGES, scope).chat
        assert chat is not None and fields[0].chat is not None
        assert chat.messages == (*fields[0].chat.messages, *[2] * more)
        assert chat.is_content == (*fields[0].chat.is_content, *[True] * more)
    sequence = ts.attribute_sequence(model, MESSAGES, S, positions=[4, 5])
    assert sequence.chat == sequence.over_reads().chat == fields[0].chat
    parts = circuits.components(model, MESSAGES, S), circuits.components(model, TEXT, S)
    torch.testing.assert_close(parts[0].total, parts[1].total)


def test_a_saved_result_keeps_the_conversation(tmp_path):
    model = zoo.shared(MODELS[0])
    prompt = {"messages": MESSAGES, "chat_template": SHORT}
    found = ts.attribute(model, prompt, S)
    found.save(tmp_path / "a.safetensors")
    assert ts.Attribution.load(tmp_path / "a.safetensors").chat == found.chat


BAD = {
    "no template": (
        MESSAGES,
        PromptError,
        "no chat template",
        r'"chat_template": "',
        "chat_template=",
    ),
    "no messages": ({"messages": []}, EmptyPromptError, "no messages", "give"),
    "one message": (MESSAGES[0], PromptError, "one message", "into a list"),
    "messages as text": ({"messages": "Hi"}, PromptError, "messages is a str", "allowed"),
    "other keys": ({"messages": MESSAGES, "tool": []}, PromptError, "'tool'", "'tools'"),
    "a role left out": (
        {"messages": [user("x"), {"role": "critic", "content": "y"}], "chat_template": QWEN},
        *(PromptError, "leaves out", r"messages\[1\]", "'critic'", "take it out"),
    ),
    "a role refused": (
        {"messages": [user("x"), {"role": "critic", "content": "y"}], "chat_template": MISTRAL},
        *(PromptError, "Only user and assistant", "'user', 'critic'", "give messages"),
    ),
    "a system message refused": (
        {"messages": [user("x"), system("y")], "chat_template": MISTRAL},
        *(PromptError, "Only user and assistant", "'user', 'system'"),
    ),
    "a broken template": (
        {"messages": MESSAGES, "chat_template": "{% for"},
        *(PromptError, "TemplateSyntaxError", "another template"),
    ),
    "no role": ([user("x"), {"role": None, "content": "y"}], PromptError, r"messages\[1\]", "role"),
    "no mapping": ([user("x"), "y"], PromptError, r"messages\[1\] has the type str"),
    "no content": ([{"role": "user"}], PromptError, r"messages\[0\] \('user'\) has no content"),
    "an image": (
        [{"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "image"}]}],
        *(PromptError, r"messages\[0\] holds a part of the type 'image'", "take them out"),
    ),
    "a number": ([{"role": "user", "content": 7}], PromptError, r"messages\[0\] holds a int"),
    "half a character": (
        {"messages": [user("\ud83d")], "chat_template": SHORT},
        *(PromptError, "half of a surrogate pair"),
    ),
    "a mark": (
        {"messages": [user("\U0010fffd")], "chat_template": SHORT},
        *(PromptError, "private character", "take it out"),
    ),
    "a template that looks": (
        {"messages": [user("x y")], "chat_template": "{{ messages[0]['content'] | length }}"},
        *(PromptError, "cannot be told", "apply_chat_template"),
    ),
}


@each_class
@pytest.mark.parametrize("case", BAD)
def test_what_is_no_conversation_is_refused_by_name(name, case):
    model = zoo.shared(name)
    prompt, *error = BAD[case]
    refused(lambda: ts.attribute(model, prompt, S), *error)


@each_class
def test_conversations_in_the_wrong_place_are_refused_by_name(name):
    model = zoo.shared(name)
    chat = {"messages": MESSAGES, "chat_template": SHORT}
    for prompts in (MESSAGES, chat):
        refused(
            lambda p=prompts: ts.attribute_batch(model, p, S),
            *(PromptError, "one conversation", "into a list"),
        )
    batch = lambda: ts.attribute_batch(model, [chat, [0, 5]], S)  # noqa: E731
    refused(batch, PromptError, "mixes text and token ids")
    masked = lambda: ts.attribute(model, chat, S, attention_mask=[1])  # noqa: E731
    refused(masked, PromptError, "messages, which has no padding")
    tokenizer, model = zoo.tokenizer(), zoo.build(name)
    tokenizer.chat_template = SHORT
    model.tokenizer = None
    refused(lambda: ts.attribute(model, MESSAGES, S), PromptError, "no tokenizer")


def test_parts_of_text_are_joined_as_transformers_server_does():
    parts = [{"type": "text", "text": "Hi"}, {"type": "text", "text": "you"}]
    prompt = {"messages": [{"role": "user", "content": parts}], "chat_template": SHORT}
    assert written(prompt, zoo.tokenizer()).text == "Hi you.,"


def test_conversations_in_data_are_measured(tmp_path):
    import datasets

    lines = [{"id": k, "messages": MESSAGES, "chat_template": SHORT} for k in range(2)]
    datasets.Dataset.from_list(lines).to_parquet(tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "b.json").write_text(json.dumps([MESSAGES]))
    (tmp_path / "c.json").write_text(json.dumps(MESSAGES))
    model = zoo.build(MODELS[0])
    expected = evaluation.measure(model, [TEXT], [S])
    for name in ("a.parquet", "a.jsonl"):
        data = evaluation.read(tmp_path / name, n=1)
        assert data.prompts == [{"messages": MESSAGES, "chat_template": SHORT}]
        assert evaluation.measure(model, data.prompts, [S]) == expected
    assert (
        evaluation.read(tmp_path / "a.jsonl", column="messages").prompts[1]["messages"] == MESSAGES
    )
    model.tokenizer.chat_template = SHORT
    assert evaluation.read(tmp_path / "b.json").prompts == [MESSAGES]
    run = evaluation.run(model, evaluation.read(tmp_path / "b.json"), [S], out=tmp_path / "run")
    assert run.failed == 0
    with pytest.raises(DataError, match="list of messages: put them into one"):
        evaluation.read(tmp_path / "c.json")


@pytest.mark.real("smollm2-135m-instruct")
def test_smollm_reads_what_its_tokenizer_writes():
    model = real_models.shared("smollm2-135m-instruct")
    for messages, goes_on in (
        ([user("Where is Paris?")], False),
        (
            [
                system("Say it in Dutch."),
                user(" Hi\n\nyou. "),
                assistant("Dag"),
                user("Ça va? 日本"),
            ],
            False,
        ),
        ([system("Say it in Dutch."), user("Hi"), assistant("Well,")], True),
    ):
        ids = encode(view_of(model), messages, None)
        made_by_it = model.tokenizer.apply_chat_template(
            messages,
            add_generation_prompt=not goes_on,
            continue_final_message=goes_on,
            return_dict=False,
        )
        assert list(ids) == list(made_by_it) and ids.chat is not None
        whose = list(zip(ids, ids.chat.messages, ids.chat.is_content))
        for i, message in enumerate(messages):
            of_it = [token for token, owner, inside in whose if owner == i and inside]
            assert model.tokenizer.decode(of_it) == message["content"]
        assert whose[0][1:] == (-1, False)
