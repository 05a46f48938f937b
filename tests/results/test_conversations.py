"""Results of conversations: groups by message, role and content, and the share of a role."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import tl_scopes as ts
from support import zoo
from support.chats import assistant, system, user
from support.marks import MODELS
from support.refusals import refused
from tl_scopes import baselines
from tl_scopes.errors import NumericalError, ScopeParameterError, SiteError

TEMPLATE = "{% if messages[0].role != 'system' %}Paris. {% endif %}" + (
    "{% for m in messages %}<{{ m.content }}>{% endfor %}{% if add_generation_prompt %},{% endif %}"
)
ROLES = [user("The cat. The"), user("not"), assistant("Paris"), user("Paris. Paris")]


def prompt(messages: list, template: str = TEMPLATE) -> dict:
    return {"messages": messages, "chat_template": template}


@pytest.fixture(scope="module")
def found() -> ts.Attribution:
    return ts.attribute(zoo.shared(MODELS[0]), prompt(ROLES), ts.SemanticScope(), sites=[0, 1])


GROUPS = {
    "message": "<bos>|Paris. |<The cat. The>|<not>|<Paris>|<Paris. Paris>|,",
    "role": "<bos>|Paris. |<The cat. The><not>|<Paris>|<Paris. Paris>|,",
    "content": "<bos>|Paris. |<|The cat. The|>|<|not|>|<|Paris|>|<|Paris. Paris|>|,",
    "sentence": "<bos>|Paris.| |<|The cat.| The|>|<|not|>|<|Paris|>|<|Paris.| Paris|>|,",
}


@pytest.mark.parametrize("by", GROUPS)
def test_groups_are_turns(found, by):
    grouped = found.group(by)
    texts = GROUPS[by].split("|")
    assert list(grouped.str_tokens) == texts and grouped.has_bos
    squares = found.scores.double() ** 2
    for g, (start, end) in enumerate(grouped.spans):
        assert "".join(found.str_tokens[start:end]) == texts[g]
        joint = squares[:, start:end].sum(-1).sqrt()
        torch.testing.assert_close(grouped.scores[:, g].double(), joint)
    assert grouped.chat == found.chat


def test_a_share_is_by_squares_for_norms_and_by_sums_for_sums(found):
    model = zoo.shared(MODELS[0])
    messages = [system("The cat"), user("is not"), assistant("Paris")]
    own, template = [2, 3], [1, 4]
    norm = ts.attribute(model, prompt(messages), ts.SemanticScope(), sites=[0, 1])
    assert [norm.str_tokens[t] for t in own + template] == ["The", " cat", "<", ">"]
    fisher = ts.attribute(model, prompt(messages), ts.FisherScope(rank=2))
    signed = baselines.InputXGradient(reduce="sum").attribute(model, prompt(messages))
    for result, power in ((norm, 2), (fisher, 1), (signed, 1)):
        row = result.scores[-1].double() ** power
        for more, kept in (({}, own), ({"include_template": True}, own + template)):
            for bos in (False, True):
                score, share = result.share("system", -1, None, include_bos=bos, **more)
                total = row[0 if bos else 1 :].sum()
                assert share == pytest.approx(float(row[kept].sum() / total), rel=1e-9)
                assert score == pytest.approx(float(row[kept].sum()) ** (1 / power), rel=1e-6)
    everything = [norm.share(role, include_template=True).share for role in ("system", "user")]
    assert sum(everything) + norm.share("assistant", include_template=True).share == pytest.approx(
        1
    )


def test_a_share_of_a_sequence_is_of_all_its_reads():
    model, messages = (
        zoo.shared(MODELS[0]),
        [system("The cat"), user("is not"), assistant("Paris is")],
    )
    sequence = ts.attribute_sequence(
        model, prompt(messages), ts.TemperatureScope(), positions=[6, 8, 9]
    )
    squares = (sequence.scores[:, 0].double() ** 2).sum(0)
    share = sequence.share("system").share
    assert share == pytest.approx(float(squares[2:4].sum() / squares[1:].sum()), rel=1e-5)


def test_what_has_no_share_is_refused_by_name(found):
    text = ts.attribute(zoo.shared(MODELS[0]), "The cat", ts.SemanticScope())
    wrong = ScopeParameterError
    refused(lambda: text.share("system"), wrong, "text or token ids", "list of messages")
    refused(lambda: text.group("message"), wrong, "text or token ids", "list of messages")
    refused(lambda: found.group("word").share("user"), wrong, "holds groups")
    refused(lambda: found.share("system"), wrong, "'system'", "'user'", "'assistant'")
    refused(lambda: found.share("user", how="max"), wrong, "max", "norm")
    refused(lambda: found.share("user", "blocks.9"), SiteError, "blocks.9")
    asked = ts.attribute(zoo.shared(MODELS[0]), prompt([user("is")]), ts.SemanticScope())
    refused(lambda: asked.share("assistant"), wrong, "say nothing here", "include_template=True")
    zero = replace(found, scores=torch.zeros_like(found.scores))
    refused(lambda: zero.share("user"), NumericalError, "add up to zero", "another site")
