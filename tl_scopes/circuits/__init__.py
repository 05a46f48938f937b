"""From which token, through which head, into which prediction: circuit analysis with scopes.

`components`: first-order effects of heads, MLPs and neurons. `flow`, `flow_path`, `head_paths`: how a
token's influence splits over positions of a layer, over several layers, over heads. `scope_metric`:
a scope's scalar for activation patching. `verify`: prediction against real ablation.
"""

from tl_scopes.circuits.components import components
from tl_scopes.circuits.flow import flow, flow_path
from tl_scopes.circuits.head_paths import head_paths
from tl_scopes.circuits.metric import ScopeMetric, scope_metric
from tl_scopes.circuits.pairs import Pairs
from tl_scopes.circuits.verify import verify

__all__ = [
    "Pairs",
    "ScopeMetric",
    "components",
    "flow",
    "flow_path",
    "head_paths",
    "scope_metric",
    "verify",
]
