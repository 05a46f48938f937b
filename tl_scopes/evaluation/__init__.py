"""How faithful attribution methods are: measured, and checked against what they must not be.

    >>> card = evaluation.faithfulness_card(model, prompts, [ts.SemanticScope(), ts.FisherScope()])
    >>> card.to_html("card.html")

`faithfulness_card` does everything on a list of prompts; `measure`, `randomisation`,
`input_stability` and `fisher_spectrum` are its parts; `run` measures whole data sets, resumably.
A method is a scope or one of `tl_scopes.baselines`.
"""

from tl_scopes.evaluation.card import faithfulness_card
from tl_scopes.evaluation.data import DataSet, read
from tl_scopes.evaluation.perturb import input_stability
from tl_scopes.evaluation.randomise import randomisation
from tl_scopes.evaluation.ranking import label, labelled
from tl_scopes.evaluation.rows import measure
from tl_scopes.evaluation.runs import Run, run
from tl_scopes.evaluation.settings import Settings
from tl_scopes.evaluation.spectra import fisher_spectrum, ranks_holding
from tl_scopes.faithfulness import FaithfulnessCard

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
