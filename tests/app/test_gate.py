"""The explorer's gate: foreign pages, frames and names are turned away, and nothing leaves the machine."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import socket
from pathlib import Path

import pytest

from support.cli_calls import call, refused
from support.marks import needs_streamlit
from support.served_app import serving
from tl_scopes.app.gate import Door, Gate
from tl_scopes.cli import app as cli_app

HERE = Door.of("127.0.0.1", True, (), ())
CLASS = Door.of("0.0.0.0", False, ("Lab.example.org",), ())
SPACE = Door.of("0.0.0.0", False, ("me-scopes.hf.space",), ("https://huggingface.co",))


def sent(door: Door, kind: str, *headers: tuple[str, str]) -> tuple[list[dict], list[dict]]:
    """What a client is sent, and the requests that came through."""
    came: list[dict] = []
    out: list[dict] = []

    async def app(scope, receive, send):
        came.append(scope)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]})
        await send({"type": "http.response.body", "body": b"page"})

    async def send(message):
        out.append(message)

    lines = [(name.lower().encode(), value.encode()) for name, value in headers]
    scope = {"type": kind, "headers": lines}
    asyncio.run(Gate(app, door)(scope, None, send))
    return out, came


MACHINE = socket.gethostname().split(".")[0].lower()
ALLOWED = [  # the door, the name that is asked for, and the site whose page asks
    (HERE, "127.0.0.1:8501", None),
    (HERE, "localhost:8501", "http://localhost:8501"),
    (HERE, "[::1]:8501", "http://[::1]:8501"),
    (HERE, "LOCALHOST:8501", "http://localhost:8501"),
    (CLASS, "192.168.1.20:8501", "http://192.168.1.20:8501"),
    (CLASS, "[2001:db8::7]:8501", "http://[2001:db8::7]:8501"),
    (CLASS, f"{MACHINE}.local:8501", f"http://{MACHINE}.local:8501"),
    (CLASS, "lab.example.org", "https://lab.example.org"),
    (CLASS, "lab.example.org.:8501", None),
    (SPACE, "10.2.3.4:7860", "https://me-scopes.hf.space"),
    (SPACE, "localhost:7860", "http://localhost:7860"),
]
REFUSED = [
    (HERE, "other.test:8501", None),  # a name that another site has pointed at this machine
    (HERE, "192.168.1.20:8501", None),
    (HERE, "127.0.0.1.other.test", None),
    (HERE, "127.0.0.1@other.test", None),
    (HERE, "localhost:8501/x", None),
    (HERE, "localhost:port", None),
    (HERE, "", None),
    (HERE, "127.0.0.1:8501", "http://other.test"),
    (HERE, "127.0.0.1:8501", "http://127.0.0.1:3000"),  # another server of this machine
    (HERE, "127.0.0.1:8501", "http://127.0.0.1"),
    (HERE, "127.0.0.1:8501", "http://127.0.0.1:8501.other.test"),
    (HERE, "127.0.0.1:8501", "null"),  # a page in a sandbox
    (HERE, "127.0.0.1:8501", "file://127.0.0.1:8501"),
    (HERE, "127.0.0.1:8501", ""),
    (CLASS, "other.test:8501", "http://other.test:8501"),
    (CLASS, "192.168.1.20:8501", "http://192.168.1.21:8501"),
    (CLASS, "192.168.1.20:8501", f"http://{MACHINE}:3000"),
    (CLASS, "lab.example.org:8501", "http://lab.example.org:9000"),
    (SPACE, "me-scopes.hf.space", "https://other.hf.space"),
    (SPACE, "me-scopes.hf.space", "https://huggingface.co"),  # it may show the page, not drive it
]


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize(("door", "host", "origin"), ALLOWED)
def test_its_own_page_comes_through(door, host, origin, kind):
    headers = [("Host", host), *([("Origin", origin)] if origin else []), ("Cookie", "x")]
    out, came = sent(door, kind, *headers)
    # Streamlit would look for this machine's address on the internet to judge an origin.
    assert [name for name, _ in came[0]["headers"]] == [b"host", b"cookie"]
    assert out[0]["status"] == 200


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize(("door", "host", "origin"), REFUSED)
def test_others_are_turned_away(door, host, origin, kind):
    headers = [("Host", host), *([("Origin", origin)] if origin is not None else [])]
    out, came = sent(door, kind, *headers)
    assert came == []
    assert out[0].get("status") == 403 if kind == "http" else out[0]["type"] == "websocket.close"


def test_headers_that_are_there_twice_are_no_way_in():
    for twice in (("Host", "localhost"), ("Origin", "http://localhost")):
        out, came = sent(
            HERE, "http", ("Host", "localhost"), ("Origin", "http://other.test"), twice
        )
        assert came == [] and out[0]["status"] == 403


@pytest.mark.parametrize(
    ("door", "policy", "denied"),
    [
        (HERE, b"frame-ancestors 'none'", True),
        (CLASS, b"frame-ancestors 'none'", True),
        (SPACE, b"frame-ancestors https://huggingface.co", False),
    ],
)
def test_frames(door, policy, denied):
    for host in ("localhost", "other.test"):  # a page, and a refusal
        headers = dict(sent(door, "http", ("Host", host))[0][0]["headers"])
        assert headers[b"content-security-policy"] == policy
        assert (headers.get(b"x-frame-options") == b"DENY") is denied


def test_a_door_is_written_and_read():
    for door in (HERE, CLASS, SPACE):
        assert Door.from_json(door.to_json()) == door


def test_the_command_says_who_may_come(served, monkeypatch):
    call("app", "--port", "0")
    call("app", "--port", "0", "--host", "0.0.0.0", "--name", "lab.example.org")
    monkeypatch.setenv("SPACE_HOST", "me-scopes.hf.space")
    call("app", "--port", "0", "--host", "0.0.0.0", "--framed-by", "https://huggingface.co")
    assert [given[-1] for given in served] == [HERE, CLASS, SPACE]
    for wrong in (
        "huggingface.co",
        "https://a b",
        "*",
        "https://a; script-src *",
        "https://a\nb: c",
    ):
        assert "is no origin" in refused(call("app", "--port", "0", "--framed-by", wrong))


WATCH = """
import json, os, socket
def told(what):
    with open(os.environ["WATCHED"], "a") as file:
        file.write(json.dumps(what) + "\\n")
connect, look = socket.socket.connect, socket.getaddrinfo
def watched(self, address):
    told(["connect", repr(address)])
    return connect(self, address)
def looked(host, *rest, **more):
    told(["look", repr(host)])
    return look(host, *rest, **more)
socket.socket.connect, socket.getaddrinfo = watched, looked
"""


def handshake(address: str, **headers: str) -> int:
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=30)
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    key = {"Sec-WebSocket-Key": base64.b64encode(bytes(16)).decode()}
    connection.request("GET", "/_stcore/stream", headers=upgrade | key | headers)
    status = connection.getresponse().status
    connection.close()
    return status


@needs_streamlit
def test_nothing_leaves_the_machine_when_foreign_pages_knock(folder, tmp_path):
    """The process as it is served, with every connection and look-up of a name written down."""
    (tmp_path / "sitecustomize.py").write_text(WATCH)
    log = tmp_path / "watched"
    # A user's own settings of Streamlit must not open the gate.
    (tmp_path / "home" / ".streamlit").mkdir(parents=True)
    loose = '[server]\nenableCORS = false\ncorsAllowedOrigins = ["http://other.test"]\n'
    (tmp_path / "home" / ".streamlit" / "config.toml").write_text(loose)
    root = str(Path(cli_app.__file__).parents[1])
    places = {"WATCHED": str(log), "HOME": str(tmp_path / "home")}
    with serving(folder, PYTHONPATH=f"{tmp_path}:{root}", **places) as address:
        before = log.read_text() if log.exists() else ""
        own = address.removeprefix("http://")
        assert handshake(address) == handshake(address, Origin=address) == 101
        for origin in (
            "http://other.test",
            "http://127.0.0.1:1",
            "null",
            f"http://{own}.other.test",
        ):
            assert handshake(address, Origin=origin) == 403
        assert handshake(address, Host="other.test") == 403
        connection = http.client.HTTPConnection(own, timeout=30)
        connection.request("GET", "/")
        answer = connection.getresponse()
        assert answer.status == 200
        assert answer.getheader("Content-Security-Policy") == "frame-ancestors 'none'"
        connection.close()
    seen = [json.loads(line) for line in log.read_text().removeprefix(before).splitlines()]
    assert [what for what in seen if "127.0.0.1" not in what[1]] == []
    assert "amazonaws" not in log.read_text() and "8.8.8.8" not in log.read_text()


def test_a_name_may_have_a_port_that_a_proxy_keeps_to_itself():
    door = Door.of("0.0.0.0", False, ("lab.example.org:8443",), ())
    assert door.refusal(["lab.example.org"], ["https://lab.example.org:8443"]) is None
    assert door.refusal(["lab.example.org"], ["https://lab.example.org:9000"]) is not None


@pytest.mark.parametrize("name", ["", "https://lab.example.org", "lab.example.org/x", "a:b"])
def test_what_is_no_name_is_refused(name):
    with pytest.raises(ValueError, match="is no name such as lab"):
        Door.of("0.0.0.0", False, (name,), ())
