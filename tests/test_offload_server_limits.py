"""What a server bears: names that it goes by, connections, half requests, unread answers; spoken over bare sockets."""

import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from html.parser import HTMLParser
from typing import Any

import httpx
import pytest
from servers import ScriptedLoop, served

import offload
from offload.server import ServerOptions, Service, connections, create_app
from offload.server.docs import docs_page
from offload.serving import ServingLoop


@pytest.fixture(scope="module")
def loop(tiny: offload.LanguageModel) -> ScriptedLoop:
    return ScriptedLoop(tiny, ["Hello."])


@pytest.fixture(scope="module")
def address(loop: ScriptedLoop) -> Iterator[str]:
    with served(loop) as address:
        yield address


def connect(address: str) -> socket.socket:
    host, port = address.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def post_head(path: str, length: int) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {length}"
    return head.encode() + b"\r\n\r\n"


def reply(line: socket.socket) -> tuple[int, dict[str, str], Any]:
    """Status, header and body of the one answer that is sent before the connection is closed."""
    data = b""
    while piece := line.recv(65536):
        data += piece
    head, _, body = data.decode().partition("\r\n\r\n")
    first, *lines = head.split("\r\n")
    headers = dict(text.lower().split(": ", 1) for text in lines)
    return int(first.split()[1]), headers, json.loads(body) if body else None


# ---- names


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:99", "127.0.0.1:8080", "[::1]:8080", "192.168.1.5", "localhost."]
)
def test_the_server_goes_by_localhost_and_addresses(address: str, host: str) -> None:
    assert httpx.get(f"{address}/health", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("path", ["/", "/health", "/v1/models", "/v1/messages", "/docs", "/page/main.js"])
@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "[evil]", "localhost.evil.example"]
)
def test_other_names_are_refused(address: str, path: str, host: str) -> None:
    answer = httpx.get(address + path, headers={"host": host})
    assert answer.status_code == 403
    assert "--allowed-host" in answer.json()["error"]["message"]
    assert answer.json()["error"]["type"] == "permission_error"
    assert ("type" in answer.json()) == path.startswith("/v1/messages")  # Anthropic's form


def test_names_can_be_given(loop: ScriptedLoop) -> None:
    with served(loop, allowed_hosts=("Box.example",)) as address:
        assert httpx.get(f"{address}/health", headers={"host": "box.EXAMPLE:1"}).status_code == 200
        assert httpx.get(f"{address}/health", headers={"host": "other.example"}).status_code == 403
    with served(loop, allowed_hosts=("*",)) as address:
        assert httpx.get(f"{address}/health", headers={"host": "other.example"}).status_code == 200
    assert not ServerOptions(host="0.0.0.0").checks_hosts
    assert ServerOptions(host="0.0.0.0", allowed_hosts=("box",)).checks_hosts


# ---- connections


def test_connections_beyond_the_limit_are_told(loop: ScriptedLoop) -> None:
    with served(loop, max_connections=3) as address, ExitStack() as opened:
        idle = [opened.enter_context(closing(connect(address))) for _ in range(3)]
        for path, is_anthropic in (("/v1/chat/completions", False), ("/v1/messages", True)):
            with closing(connect(address)) as line:
                line.sendall(post_head(path, 0))
                status, headers, body = reply(line)
            assert (status, headers["retry-after"], headers["connection"]) == (503, "1", "close")
            assert "--max-connections" in body["error"]["message"]
            assert ("type" in body) == is_anthropic
        idle[0].close()
        assert wait_for(lambda: httpx.get(f"{address}/health").status_code == 200)


def test_a_flood_of_connections_is_cut(loop: ScriptedLoop) -> None:
    """Beyond those that are told, nothing is kept; the server is well when they have gone."""
    with served(loop, max_connections=2) as address:
        with ExitStack() as opened:
            lines = [opened.enter_context(closing(connect(address))) for _ in range(connections.REFUSED + 40)]
            assert wait_for(lambda: sum(is_cut(line) for line in lines) >= 38)
        assert wait_for(lambda: httpx.get(f"{address}/health").status_code == 200)


@pytest.fixture
def running(slotted: offload.LanguageModel) -> Iterator[ServingLoop]:
    loop = slotted.serve(max_waiting=1)
    yield loop
    loop.close()


def test_streams_count_as_connections(running: ServingLoop) -> None:
    body = {"prompt": "x = 1\n", "max_tokens": 3000, "stream": True, "logit_bias": {"4077": -100}}
    with served(running, max_connections=1) as address:
        with httpx.stream("POST", f"{address}/v1/completions", json=body, timeout=60) as stream:
            lines = stream.iter_lines()
            assert any(line.startswith("data: ") for line in lines)  # behind comments while it waits
            assert httpx.get(f"{address}/health", timeout=60).status_code == 503
        assert wait_for(lambda: httpx.get(f"{address}/health", timeout=60).status_code == 200)
        assert wait_for(lambda: running.totals().running == 0)


def is_cut(line: socket.socket) -> bool:
    line.setblocking(False)
    try:
        return line.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def wait_for(condition: Any, seconds: float = 30.0) -> bool:
    ends_at = time.monotonic() + seconds
    while time.monotonic() < ends_at:
        try:
            if condition():
                return True
        except httpx.HTTPError:
            pass
        time.sleep(0.02)
    return False


# ---- time


@pytest.mark.parametrize("sent", [b"", b"GET /health HT", b"GET /health HTTP/1.1\r\nhost: localhost\r\nx: "])
def test_half_a_request_ends_in_time(loop: ScriptedLoop, sent: bytes) -> None:
    with served(loop, body_timeout_s=0.3) as address, closing(connect(address)) as line:
        began = time.monotonic()
        line.sendall(sent)
        status, headers, body = reply(line)
        assert 0.2 < time.monotonic() - began < 5
        assert (status, headers["connection"]) == (408, "close")
        assert body["error"]["message"] == "the request took longer than 0.3 s to come"


def test_a_drop_now_and_then_does_not_help(loop: ScriptedLoop) -> None:
    """After an answer, too, half a header has its time."""
    with served(loop, body_timeout_s=0.5) as address, closing(connect(address)) as line:
        line.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert line.recv(65536).startswith(b"HTTP/1.1 200")
        began = time.monotonic()
        with pytest.raises(ConnectionError):  # noqa: PT012 - one of many bytes
            for byte in b"GET /health HTTP/1.1\r\nx: " + 200 * b"y":
                line.sendall(bytes([byte]))
                time.sleep(0.05)
        assert time.monotonic() - began < 5


def test_an_answer_that_nobody_reads_ends(loop: ScriptedLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "UNREAD_S", 0.3)
    with served(loop, 4096, max_connections=1) as address, closing(connect(address)) as line:
        body = b'{"content": "%s"}' % (b"1" * 1_000_000)  # an answer too large for all buffers between
        line.sendall(post_head("/tokenize", len(body)) + body)
        assert wait_for(lambda: httpx.get(f"{address}/health").status_code == 200)


# ---- what is no HTTP


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(50),
        b"GET\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: localhost\r\nhost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: localhost\r\nx: " + b"y" * 70_000,
        b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n{}",
        b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n",
    ],
)
def test_what_is_no_http_is_said(address: str, sent: bytes) -> None:
    with closing(connect(address)) as line:
        line.sendall(sent)
        status, headers, body = reply(line)
    assert (status, headers["connection"], headers["content-type"]) == (400, "close", "application/json")
    assert "HTTP/1.1" in body["error"]["message"]
    assert httpx.get(f"{address}/health").status_code == 200


# ---- /docs


class Anchors(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids, self.links, self.tags = list[str](), list[str](), list[str]()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]


def test_the_documents_need_no_network(loop: ScriptedLoop) -> None:
    with served(loop, api_keys=("secret",)) as address:
        answer = httpx.get(f"{address}/docs")
        assert answer.status_code == 200
        assert answer.headers["content-security-policy"].startswith("default-src 'self'")
    page = Anchors(answer.text)
    assert "script" not in page.tags
    assert not re.findall(r"https?:|[\"'(]//", answer.text)
    assert len(set(page.ids)) == len(page.ids)
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert {link for link in page.links if not link.startswith("#")} == {
        "/page/icon.svg", "/page/docs.css", "/openapi.json",
    }  # fmt: skip


def test_the_documents_have_every_request_and_parameter(loop: ScriptedLoop) -> None:
    service = Service(ServerOptions())
    document = create_app(service).openapi()
    text = docs_page(document)
    for path, methods in document["paths"].items():
        assert all(f"<code>{method.upper()} {path}</code>" in text for method in methods)
    for schema in document["components"]["schemas"].values():
        assert all(f"<th><code>{name}</code></th>" in text for name in schema.get("properties", {}))
    assert "at most 20" in text  # top_logprobs


def test_texts_in_documents_stay_texts() -> None:
    evil = "<script>alert(1)</script>"
    text = docs_page(
        {
            "info": {"title": evil, "version": evil},
            "paths": {f"/{evil}": {"get": {"description": evil, "responses": {}}}},
            "components": {"schemas": {evil: {"description": evil, "properties": {evil: {"const": evil}}}}},
        }
    )
    assert "script" not in Anchors(text).tags
