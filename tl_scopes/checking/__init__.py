"""Whether all that scopes rest on holds on one's own model, dtype and device, and what they cost there.

`check` looks at a model from many sides, each alone, and never raises for what it finds: a
`ModelCheck` says what was measured, what is allowed, and what to do.
"""

from tl_scopes.checking.finding import Cost, Finding, ModelCheck
from tl_scopes.checking.run import check

__all__ = ["Cost", "Finding", "ModelCheck", "check"]
