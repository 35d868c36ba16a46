"""The server in operation: streams beside each other, clients that go, limits, keys, logs, counts, its end."""

import asyncio
import json
import logging
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pydantic
import pytest
from servers import served

import offload
from offload.errors import OptionError
from offload.server import ServerOptions, Service, create_app
from offload.server.logs import JsonLines
from offload.server.sse import with_signs_of_life
from offload.server.types import ChatRequest
from offload.serving import ServingLoop

PLAIN = ssl.create_default_context()  # made once: nothing here is encrypted
get, post, options, stream = (partial(f, verify=PLAIN) for f in (httpx.get, httpx.post, httpx.options, httpx.stream))
TEXTS = ("def fib(n):", "It was a fine evening, and", "import os\n", "class Stack:\n    def __init__(self):")


@pytest.fixture(scope="module")
def loop(slotted: offload.LanguageModel) -> Iterator[ServingLoop]:
    loop = slotted.serve(max_waiting=2)
    yield loop
    loop.close()


@pytest.fixture(scope="module")
def address(loop: ServingLoop) -> Iterator[str]:
    with served(loop, max_body_bytes=100_000, body_timeout_s=1.0) as address:
        yield address


def completion(address: str, prompt: str, **body: Any) -> list[dict[str, Any]]:
    """The chunks of a stream."""
    asked = {"prompt": prompt, "max_tokens": 40, "stream": True} | body
    with stream("POST", f"{address}/v1/completions", json=asked, timeout=300) as response:
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def text_of(chunks: list[dict[str, Any]]) -> str:
    return "".join(chunk["choices"][0]["text"] for chunk in chunks if chunk.get("choices"))


def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    ends_at = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends_at, "it did not happen"
        time.sleep(0.01)


def test_streams_beside_each_other_say_what_each_says_alone(address: str, tiny: offload.LanguageModel) -> None:
    asked = [(text, {"seed": i, "temperature": 0.3 * i}) for i, text in enumerate(TEXTS)]
    drafts = {"speculative": {"type": "mtp", "max_tokens": 2}}
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda one: completion(address, one[0], **one[1], **drafts), asked))
    for chunks, (text, sampling) in zip(together, asked, strict=True):
        assert text_of(chunks) == tiny.generate(text, max_tokens=40, draft=0, **sampling).finish().text
        assert chunks[-1]["timings"]["draft_n_accepted"] > 0


@pytest.mark.parametrize("speculative", [{"type": "mtp", "max_tokens": 3}, {"type": "ngram", "max_tokens": 3}])
def test_drafts_beside_each_other_are_as_good_as_alone(address: str, speculative: dict[str, Any]) -> None:
    def acceptance(number: int) -> tuple[list[float], int, int]:
        asked = {"max_tokens": 60, "seed": number, "speculative": speculative, "temperature": 0.4 * number}
        timings = completion(address, TEXTS[number], **asked)[-1]["timings"]
        return timings["acceptance_by_position"], timings["draft_n"], timings["draft_n_accepted"]

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(acceptance, range(4)))
    assert together == [acceptance(number) for number in range(4)]
    assert sum(accepted for _, _, accepted in together) > 0


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_frees_its_slot(address: str, loop: ServingLoop, stream: bool) -> None:
    asked = {"prompt": "x = 1\n", "max_tokens": 3000, "stream": stream, "logit_bias": {"4077": -100}}
    cancelled = loop.totals().ended["cancelled"]
    with httpx.Client(verify=PLAIN) as client:
        if stream:
            with client.stream("POST", f"{address}/v1/completions", json=asked) as response:
                next(response.iter_lines())
                assert loop.totals().running == 1
        else:
            with pytest.raises(httpx.ReadTimeout):
                client.post(f"{address}/v1/completions", json=asked, timeout=0.3)
    until(lambda: loop.totals().running == 0)
    assert loop.totals().ended["cancelled"] == cancelled + 1
    assert all(slot["state"] == "free" for slot in get(f"{address}/slots").json())


def test_a_full_queue_is_said(address: str, loop: ServingLoop) -> None:
    asked = {"prompt": "x = 1\n", "max_tokens": 3000, "n": 6, "logit_bias": {"4077": -100}, "stream": True}
    with stream("POST", f"{address}/v1/completions", json=asked) as response:
        assert response.status_code == 200
        until(lambda: loop.totals().running == 4)
        refused = post(f"{address}/v1/completions", json={"prompt": "x"})
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "queue_full"
        assert refused.headers["retry-after"] == "1"
    until(lambda: loop.totals().running == loop.totals().waiting == 0)
    assert post(f"{address}/v1/completions", json={"prompt": "x", "max_tokens": 1}).status_code == 200
    refused = post(f"{address}/v1/completions", json={"prompt": "x", "n": 8})  # more than can ever wait
    assert refused.status_code == 503
    until(lambda: loop.totals().running == loop.totals().waiting == 0)


def test_answers_have_a_time_limit(loop: ServingLoop) -> None:
    asked = {"prompt": "x = 1\n", "max_tokens": 3000, "logit_bias": {"4077": -100}}
    with served(loop, request_timeout_s=0.3) as address:
        assert post(f"{address}/v1/completions", json=asked).json()["error"]["code"] == "timeout"
        error = completion(address, **asked)[-1]
        assert error["error"]["code"] == "timeout"
    until(lambda: loop.totals().running == 0)


# ---- bodies


BAD_BODIES = {
    "nothing": b"",
    "no JSON": b"{",
    "invalid UTF-8": b'{"prompt": "\xff\xfe"}',
    "half a surrogate pair": b'{"prompt": "\\ud800"}',
    "half a pair in a place of anything": b'{"messages": [{"role": "user", "content": "x", "name": "\\ud800"}], "tools"'
    b': [{"type": "function", "function": {"name": "f", "parameters": {"\\ud800": 1}}}], "prompt": "\\ud800"}',
    "half a pair as a parameter": b'{"prompt": "x", "messages": [], "\\ud800": 1, "temperature": "\\ud800"}',
    "deep lists": b'{"prompt": ' + b"[" * 40_000 + b"]" * 40_000 + b"}",
    "deep objects": b'{"a":' * 15_000 + b"1" + b"}" * 15_000,
    "a huge number": b'{"prompt": "x", "messages": [], "max_tokens": ' + b"9" * 20_000 + b"}",
    "a huge float": b'{"prompt": "x", "messages": [], "temperature": 1e999}',
    "not a number": b'{"prompt": "x", "messages": [], "temperature": NaN}',
    "a huge seed and temperature": b'{"prompt": "x", "messages": [], "seed": 1' + b"0" * 400 + b', "temperature": -1}',
    "many wrong elements": b'{"prompt": [' + b"1.5," * 20_000 + b'0], "messages": [' + b"1," * 5_000 + b"0]}",
    "many biases": b'{"prompt": "x", "messages": [], "logit_bias": {'
    + b",".join(b'"%d": "x"' % i for i in range(5000))
    + b"}}",
    "a list": b"[1, 2]",
    "a text": b'"hello"',
    "null": b"null",
    "large": b'{"prompt": "' + b"x" * 300_000 + b'"}',
}
POSTS = ("/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/messages/count_tokens", "/apply-template")


@pytest.mark.parametrize("name", BAD_BODIES)
def test_bad_bodies_are_refused(address: str, name: str) -> None:
    headers = {"content-type": "application/json"}
    for path in (*POSTS, "/tokenize", "/detokenize"):
        response = post(address + path, content=BAD_BODIES[name], headers=headers, timeout=20)
        assert 400 <= response.status_code < 500, (path, response.text)
        assert response.json()["error"]["message"]
    assert get(f"{address}/health").status_code == 200


def test_bodies_of_other_kinds_are_refused(address: str) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        response = post(f"{address}/v1/completions", content=b'{"prompt": "x"}', headers={"content-type": kind})
        assert response.status_code == 400
        assert "Content-Type: application/json" in response.json()["error"]["message"]


def test_large_and_slow_bodies(address: str) -> None:
    def large() -> Iterator[bytes]:
        for _ in range(30):
            yield b"x" * 10_000

    def slow() -> Iterator[bytes]:
        yield b'{"prompt": "x'
        time.sleep(1.5)
        yield b'"}'

    headers = {"content-type": "application/json"}
    response = post(f"{address}/v1/completions", content=large(), headers=headers)
    assert response.status_code == 413
    assert "larger than 100000 bytes" in response.json()["error"]["message"]
    response = post(f"{address}/v1/completions", content=slow(), headers=headers)
    assert response.status_code == 408


def test_long_lists_make_one_error() -> None:
    for messages in ([{"role": "user"}] * 10_001, [7] * 10_000):
        with pytest.raises(pydantic.ValidationError) as caught:
            ChatRequest.model_validate({"messages": messages})
        assert caught.value.error_count() == 1


def test_what_the_documents_promise(address: str) -> None:
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, Phase, given, settings
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_schema_conformance,
        status_code_conformance,
    )  # fmt: skip

    schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
    paths = set()
    for operation in schema.get_all_operations():
        operation = operation.ok()
        paths.add(operation.path)

        @settings(
            max_examples=5, deadline=None, derandomize=True, database=None,
            phases=[Phase.generate], suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(case=operation.as_strategy())
        def check(case: Any) -> None:
            if isinstance(case.body, dict):
                case.body["max_tokens"] = 1
            response = case.call(timeout=30)
            assert response.status_code < 500, (case.body, response.text)
            checks = (status_code_conformance, content_type_conformance, response_schema_conformance)
            case.validate_response(response, checks=checks)

        check()
    assert {*POSTS, "/v1/models", "/slots", "/metrics", "/health", "/props"} <= paths


# ---- keys, logs, counts


def test_pages_of_others_may_not_ask(loop: ServingLoop, address: str) -> None:
    origin = {"origin": "http://evil.example", "access-control-request-method": "POST"}
    assert "access-control-allow-origin" not in get(f"{address}/health", headers=origin).headers
    assert options(f"{address}/v1/completions", headers=origin).status_code == 405
    with served(loop, cors_origins=("http://good.example",), api_keys=("k",)) as address:
        assert options(f"{address}/v1/completions", headers=origin).status_code == 400
        good = options(f"{address}/v1/completions", headers=origin | {"origin": "http://good.example"})
        assert good.headers["access-control-allow-origin"] == "http://good.example"


def test_logs_hold_no_prompts(address: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "offload.server"):
        completion(address, "secret words", max_tokens=3, frobnicate=1, stop=["secret"])
        post(f"{address}/v1/completions", json={"prompt": "secret words", "temperature": "secret"})
        until(lambda: sum(record.getMessage() == "request" for record in caplog.records) >= 2)
    assert "secret" not in caplog.text + str([getattr(r, "fields", {}) for r in caplog.records])
    first, second = (r.fields for r in caplog.records if r.getMessage() == "request")
    assert (first["path"], first["status"], first["tokens"], first["finish"]) == ("/v1/completions", 200, 3, "length")
    assert second["status"] == 400
    assert any("frobnicate" in record.getMessage() for record in caplog.records)


def test_logs_hold_prompts_if_they_are_to(loop: ServingLoop, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "offload.server"), served(loop, log_prompts=True) as address:
        completion(address, "open words", max_tokens=1)
    assert [r.fields["prompts"] for r in caplog.records if r.getMessage() == "prompts"] == [["open words"]]
    line = json.loads(JsonLines().format(caplog.records[0]))
    assert (line["level"], line["event"], line["prompts"]) == ("info", "prompts", ["open words"])


def test_a_stream_gives_signs_of_life() -> None:
    async def texts() -> AsyncIterator[str]:
        yield "a"
        await asyncio.sleep(0.5)
        yield "b"

    async def read() -> list[str]:
        return [text async for text in with_signs_of_life(texts(), "sign", every_s=0.2)]

    assert asyncio.run(read()) == ["a", "sign", "sign", "b"]


def test_counts(address: str, loop: ServingLoop) -> None:
    before = loop.totals().generated_tokens
    completion(address, "def fib(n):", max_tokens=10, speculative={"type": "mtp", "max_tokens": 2})
    lines = get(f"{address}/metrics").text.splitlines()
    values = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line[0] != "#"}
    assert values["moe_offload_generated_tokens_total"] == before + 10
    assert values["moe_offload_slots"] == 4
    assert values["moe_offload_running_requests"] == values["moe_offload_waiting_requests"] == 0
    assert values["moe_offload_accepted_tokens_total"] > 0
    assert 0 < values['moe_offload_acceptance{position="1"}'] <= 1
    assert values["moe_offload_distinct_experts"] >= 4
    assert values['moe_offload_crossed_bytes_total{direction="down",role="mtp"}'] == 0
    assert values["moe_offload_time_to_first_token_seconds_count"] > 0
    assert values['moe_offload_requests_total{path="/v1/completions",status="200"}'] > 0
    props = get(f"{address}/props").json()
    assert (props["total_slots"], props["has_mtp"]) == (4, True)


def test_texts_to_tokens_and_back(address: str, tiny: offload.LanguageModel) -> None:
    text = "Grüße <|user|> 日本"
    ids = post(f"{address}/tokenize", json={"content": text}).json()["tokens"]
    assert ids == tiny.tokenizer.encode(text)
    assert post(f"{address}/detokenize", json={"tokens": ids}).json() == {"content": text}
    assert post(f"{address}/detokenize", json={"tokens": [99999]}).status_code == 400
    messages = [{"role": "user", "content": "hi"}]
    rendered = post(f"{address}/apply-template", json={"messages": messages, "enable_thinking": False}).json()
    assert rendered == {"prompt": tiny.chat_template.render(messages, enable_thinking=False)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"port": 70000}, "port is 70000"), ({"max_tokens": 0}, "max_tokens is 0"), ({"api_keys": ("",)}, "an API key")],
)
def test_options_are_checked(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        ServerOptions(**changes)


# ---- beginning and end


def test_it_is_ready_when_the_model_is(loop: ServingLoop) -> None:
    from fastapi.testclient import TestClient

    service = Service(ServerOptions())
    client = TestClient(create_app(service), base_url="http://localhost")
    assert (client.get("/health").status_code, client.get("/health").json()) == (503, {"status": "loading"})
    refused = client.post("/v1/completions", json={"prompt": "x"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "loading")
    service.open(loop)
    assert client.get("/health").json() == {"status": "ok"}
    service.is_closing = True
    assert client.get("/health").json() == {"status": "closing"}


class Process:
    """`moe-offload serve` as a process."""

    def __init__(self, model: Path, *flags: str):
        command = [sys.executable, "-c", "import sys; from offload.cli import main; sys.exit(main())", "serve"]
        flags = (str(model), "--port", "0", "--context", "2048", *flags)
        environment = os.environ | {"PYTHONPATH": str(Path(offload.__file__).parent.parent)}
        self.process = subprocess.Popen([*command, *flags], stderr=subprocess.PIPE, text=True, env=environment)
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def address(self) -> str:
        until(lambda: any('"ready"' in line for line in self.lines), 120)
        ready = next(json.loads(line) for line in self.lines if '"ready"' in line)
        return f"http://127.0.0.1:{ready['port']}"

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self._reader.join()
        self.process.__exit__(*error)

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)


def test_answers_end_properly_when_the_server_is_ended(tiny: offload.LanguageModel, tiny_path: Path) -> None:
    endless = {"max_tokens": 1900, "logit_bias": {str(i): -100 for i in tiny.tokenizer.end_of_generation}}
    with Process(tiny_path, "--slots", "8", "--grace", "300") as server, ThreadPoolExecutor(8) as pool:
        address = server.address()
        long = [pool.submit(completion, address, text, **endless) for text in TEXTS]
        short = [pool.submit(completion, address, text, **endless | {"max_tokens": 150}) for text in TEXTS]
        until(lambda: all(slot["state"] == "generating" for slot in get(f"{address}/slots").json()), 60)
        server.process.send_signal(signal.SIGTERM)
        assert [stream.result()[-1]["choices"][0]["finish_reason"] for stream in short] == ["length"] * 4
        server.process.send_signal(signal.SIGTERM)  # once more: at once
        assert [stream.result()[-1]["error"]["code"] for stream in long] == ["shutting_down"] * 4
        assert server.process.wait(20) == 0, server.lines
    assert not [line for line in server.lines if "Traceback" in line]


def test_a_model_that_does_not_load_ends_the_process(tmp_path: Path) -> None:
    with Process(tmp_path / "nothing.gguf") as server:
        assert server.process.wait(60) == 1
    assert "nothing.gguf" in "".join(server.lines)


def test_a_port_that_is_taken_ends_the_process(tiny_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with Process(tiny_path, "--port", port) as server:
            assert server.process.wait(60) == 1, server.lines
    assert f"cannot listen on 127.0.0.1, port {port}" in "".join(server.lines)


def test_it_can_be_ended_while_it_loads(tiny_path: Path) -> None:
    with Process(tiny_path) as server:
        until(lambda: any("loading" in line or "layout" in line for line in server.lines), 60)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0, server.lines
