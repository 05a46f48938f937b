"""From which token, through which head, into which prediction: circuit analysis with scopes.

`components`: first-order effects of heads, MLPs and neurons. `flow`, `flow_path`, `head_paths`: how a
token's influence splits over positions of a layer, over several layers, over heads. `scope_metric`:
a scope's scalar for activation patching. `verify`: prediction against real ablation. `Pairs`: clean
and corrupted prompts, over which circuits are found and judged; `tasks` makes some. `edges`: effects
of what each part writes by way of what each other part reads, over pairs. `select`: the strongest
nodes or edges as a `Circuit`. `faithfulness`: how much of a behaviour circuits keep.
`bootstrap`: would other pairs put the same first? `circuit_card`: all of it in one call.
"""

from tl_scopes.circuits import tasks as tasks
from tl_scopes.circuits.card import circuit_card
from tl_scopes.circuits.components import components
from tl_scopes.circuits.edges import edges
from tl_scopes.circuits.faithfulness import faithfulness
from tl_scopes.circuits.flow import flow, flow_path
from tl_scopes.circuits.head_paths import head_paths
from tl_scopes.circuits.metric import ScopeMetric, scope_metric
from tl_scopes.circuits.pairs.pairs import Pairs
from tl_scopes.circuits.select import select
from tl_scopes.circuits.stability import bootstrap
from tl_scopes.circuits.tracer import TracerTarget, circuit_tracer_targets
from tl_scopes.circuits.verify import verify
from tl_scopes.results.circuit import Circuit
from tl_scopes.results.circuit_card import CircuitCard
from tl_scopes.results.faithfulness import Faithfulness
from tl_scopes.results.stability import CircuitStability

__all__ = [
    "Circuit",
    "CircuitCard",
    "CircuitStability",
    "Faithfulness",
    "Pairs",
    "ScopeMetric",
    "TracerTarget",
    "bootstrap",
    "circuit_card",
    "circuit_tracer_targets",
    "components",
    "edges",
    "faithfulness",
    "flow",
    "flow_path",
    "head_paths",
    "scope_metric",
    "select",
    "verify",
]
