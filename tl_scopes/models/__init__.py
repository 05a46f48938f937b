"""Models by name, folder or bundle: a HookedTransformer or a TransformerBridge, raw weights.

Examples:
    >>> model = models.load()
"""

from tl_scopes.models.bundled import BundleState, available, ensure
from tl_scopes.models.loading import DEFAULT_MODEL, load, load_original

__all__ = ["DEFAULT_MODEL", "BundleState", "available", "ensure", "load", "load_original"]
