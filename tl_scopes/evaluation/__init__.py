"""How faithful attribution methods are: measured, and checked against what they must not be.

Examples:
    >>> card = evaluation.faithfulness_card(model, prompts, [ts.SemanticScope(), ts.FisherScope()])
    >>> card.to_html("card.html")

`faithfulness_card` does everything on a list of prompts; `measure`, `randomisation`,
`input_stability` and `fisher_spectrum` are its parts; `run` measures whole data sets, resumably.
A method is a scope or one of `tl_scopes.baselines`.
"""

from tl_scopes.evaluation.ablations import measure
from tl_scopes.evaluation.card import faithfulness_card
from tl_scopes.evaluation.data import DataSet, read
from tl_scopes.evaluation.methods import label, labelled
from tl_scopes.evaluation.runs.run import Run, run
from tl_scopes.evaluation.sanity import randomisation
from tl_scopes.evaluation.sensitivity import input_stability
from tl_scopes.evaluation.settings import Settings
from tl_scopes.evaluation.spectra import fisher_spectrum, ranks_holding
from tl_scopes.results.card import FaithfulnessCard

__all__ = [
    "DataSet",
    "FaithfulnessCard",
    "Run",
    "Settings",
    "faithfulness_card",
    "fisher_spectrum",
    "input_stability",
    "label",
    "labelled",
    "measure",
    "randomisation",
    "ranks_holding",
    "read",
    "run",
]
