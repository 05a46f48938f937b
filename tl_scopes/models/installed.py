"""What the installed transformer-lens has: model classes and model names."""

from __future__ import annotations

from typing import Any


def model_classes() -> dict[str, Any]:
    """The model classes that the installed transformer-lens has."""
    classes: dict[str, Any] = {}
    try:
        from transformer_lens.model_bridge import TransformerBridge

        classes["bridge"] = TransformerBridge
    except ImportError:
        pass
    try:
        # Removed in 4.0, where even reading the name from the package raises.
        from transformer_lens import HookedTransformer

        classes["hooked"] = HookedTransformer
    except ImportError:
        pass
    return classes


def known_names() -> dict[str, str]:
    """Every name and alias that transformer-lens knows, in lower case, with the official one."""
    try:
        from transformer_lens import supported_models as table
    except ImportError:  # 2.x
        from transformer_lens import loading_from_pretrained as table  # type: ignore[no-redef]
    names = {official.lower(): official for official in table.OFFICIAL_MODEL_NAMES}
    for official, aliases in table.MODEL_ALIASES.items():
        names |= {alias.lower(): official for alias in aliases}
    return names


def official_name(name: str) -> str:
    """What transformer-lens calls the model on the hub; `name` itself where it does not know it."""
    return known_names().get(name.lower(), name)
