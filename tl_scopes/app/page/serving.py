"""The page behind its gate: what Streamlit is given to serve.

Arguments: the settings, for the page's script; the door; an address to open in a browser, or nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import streamlit as st
from starlette.middleware import Middleware
from streamlit.cli_util import open_browser

from tl_scopes.app.gate import Door, Gate


@contextlib.asynccontextmanager
async def shown(_app: st.App) -> AsyncIterator[None]:
    if address := sys.argv[3]:
        asyncio.get_running_loop().call_soon(open_browser, address)
    yield


# Streamlit looks for this name, and reads this line without running it.
app = st.App(
    Path(__file__).with_name("explorer.py"),
    middleware=[Middleware(Gate, door=Door.from_json(sys.argv[2]))],
    lifespan=shown,
)
