"""Wrong arguments of everything that measures methods or models: refused by name before anything runs."""

from __future__ import annotations

import math

import pytest

import tl_scopes as ts
from support import zoo
from tl_scopes.adapter.view import view_of
from tl_scopes.baselines import Random
from tl_scopes.errors import EmptyPromptError, PositionError, PromptError, ScopeParameterError
from tl_scopes.evaluation import faithfulness_card, fisher_spectrum, input_stability, measure
from tl_scopes.evaluation.sanity import randomisation, randomised
from tl_scopes.evaluation.spectra import ranks_holding
from tl_scopes.results.card import verdicts

pytestmark = pytest.mark.wrong_types
RANDOM = Random()
BAD_PROMPTS = [
    ({"prompts": zoo.TEXT}, PromptError, "prompts is a str"),
    ({"prompts": []}, EmptyPromptError, "list of prompts is empty"),
]
NO_METHODS = ({"methods": []}, ScopeParameterError, "methods is empty")
BAD = {
    randomisation: [
        *BAD_PROMPTS,
        NO_METHODS,
        ({"depths": [0]}, ScopeParameterError, "depth is 0; .* 1 to 3"),
        ({"depths": [4]}, ScopeParameterError, "depth is 4; .* 1 to 3"),
        ({"depths": [True]}, ScopeParameterError, "depth is True"),
        ({"depths": [1.5]}, ScopeParameterError, r"float in \(0, 1\]"),
        ({"depths": "12"}, ScopeParameterError, "depth is '1'"),
        ({"depths": []}, ScopeParameterError, "depths is empty"),
        ({"depths": 1.0, "how": "zero"}, ScopeParameterError, "how is 'zero'"),
        ({"seed": -1}, ScopeParameterError, "seed is -1"),
        ({"seed": 0.5}, ScopeParameterError, "seed is 0.5"),
        ({"methods": ts.SemanticScope()}, ScopeParameterError, "methods is a SemanticScope"),
    ],
    input_stability: [
        *BAD_PROMPTS,
        NO_METHODS,
        ({"scale": 0}, ScopeParameterError, "scale is 0; allowed: a positive number"),
        ({"scale": -0.1}, ScopeParameterError, "scale is -0.1"),
        ({"scale": math.nan}, ScopeParameterError, "scale is nan"),
        ({"scale": math.inf}, ScopeParameterError, "scale is inf"),
        ({"scale": True}, ScopeParameterError, "scale is True"),
        ({"scale": "5%"}, ScopeParameterError, "scale is '5%'"),
        ({"draws": 0}, ScopeParameterError, "draws is 0; allowed: a whole number from 1"),
        ({"draws": 2.0}, ScopeParameterError, "draws is 2.0"),
        ({"seed": -1}, ScopeParameterError, "seed is -1"),
    ],
    fisher_spectrum: [
        *BAD_PROMPTS,
        ({"top": 0}, ScopeParameterError, "top is 0; allowed: a whole number from 1"),
        (
            {"top": 17},
            ScopeParameterError,
            "top is 17; .* 1 to 16, or None: F of this model has 16",
        ),
        ({"top": True}, ScopeParameterError, "top is True"),
        ({"top": 2.0}, ScopeParameterError, "top is 2.0"),
        ({"tail": 1.0}, ScopeParameterError, "tail is 1.0"),
        ({"tail": "auto"}, ScopeParameterError, "tail is 'auto'; allowed: a share"),
        ({"prompts": [[1, 99999]]}, PromptError, "token id 99999"),
        ({"position": 99}, PositionError, "position 99"),
    ],
    faithfulness_card: [
        *BAD_PROMPTS,
        NO_METHODS,
        ({"reference": "nobody"}, ScopeParameterError, None),
        ({"randomised": [0]}, ScopeParameterError, None),
        ({"stability": 0.9}, ScopeParameterError, None),
        ({"spectra": -1}, ScopeParameterError, None),
    ],
    measure: [
        ({"methods": methods}, ScopeParameterError, None)
        for methods in ([], {}, "semantic", [ts.SemanticScope], [3], [RANDOM, RANDOM], {"": RANDOM})
    ],
}


@pytest.mark.parametrize(
    ("call", "arguments", "error", "message"),
    [(call, *row) for call, rows in BAD.items() for row in rows],
    ids=lambda value: getattr(value, "__name__", None) or str(value),
)
def test_bad_arguments(call, arguments, error, message):
    methods = {} if call is fisher_spectrum else {"methods": [ts.SemanticScope()]}
    with pytest.raises(error, match=message):
        call(zoo.shared(zoo.names()[0]), **{"prompts": [zoo.TEXT]} | methods | arguments)


@pytest.mark.parametrize(
    ("blocks", "how", "message"),
    [
        ([3], "normal", "block 3 does not exist: the model has 3"),
        ([-1], "normal", "block -1 does not exist"),
        ([0], "zero", "how is 'zero'; allowed: 'normal', 'shuffle', 'initial'"),
    ],
)
def test_blocks_that_cannot_be_random(blocks, how, message):
    view = view_of(zoo.shared(zoo.names()[0]))
    with pytest.raises(ScopeParameterError, match=message), randomised(view, blocks, how=how):
        pass


def test_tables_that_say_nothing_of_what_is_asked():
    model = zoo.shared(zoo.names()[0])
    frame = randomisation(model, [zoo.TEXT], [RANDOM])
    with pytest.raises(ScopeParameterError, match="no column 'depth'"):
        verdicts(frame.drop(columns="depth"))
    with pytest.raises(ScopeParameterError, match="threshold is 2"):
        verdicts(frame, threshold=2)
    frame = fisher_spectrum(model, [zoo.TEXT])
    for share in (0, 1.5, True, "half"):
        with pytest.raises(ScopeParameterError, match=r"lies in \(0, 1\]"):
            ranks_holding(frame, [share])
    with pytest.raises(ScopeParameterError, match="no column 'share'"):
        ranks_holding(frame.drop(columns="share"))
