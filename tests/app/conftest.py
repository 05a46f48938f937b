"""What tests of the explorer share."""

from __future__ import annotations

import pytest


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """What would be handed to Streamlit: settings, host, port, what is opened, and the door."""
    from tl_scopes.cli import app

    handed: list[tuple] = []
    monkeypatch.setattr(app, "_serve", lambda *given: handed.append(given))
    monkeypatch.setattr(app, "_check_streamlit", lambda: None)
    return handed
