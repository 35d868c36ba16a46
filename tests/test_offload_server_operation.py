"""The server in operation: streams beside each other, clients that go, limits, keys, logs, counts."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from clients import PLAIN, TEXTS, completion, get, options, post, stream, text_of, until
from servers import served

import offload
from offload.errors import OptionError
from offload.server import ServerOptions
from offload.server.logs import JsonLines
from offload.server.sse import with_signs_of_life
from offload.serving import ServingLoop


@pytest.fixture(scope="module")
def loop(slotted: offload.LanguageModel) -> Iterator[ServingLoop]:
    loop = slotted.serve(max_waiting=2)
    yield loop
    loop.close()


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
                lines = response.iter_lines()  # the connection ends with it
                next(lines)
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
    """While nothing comes, again and again."""

    async def read() -> list[str]:
        found, enough = list[str](), asyncio.Event()

        async def texts() -> AsyncIterator[str]:
            yield "a"
            await enough.wait()
            yield "b"

        async for text in with_signs_of_life(texts(), "sign", every_s=0.05):
            found.append(text)
            if found.count("sign") == 2:
                enough.set()
        return found

    first, *signs, last = asyncio.run(read())
    assert (first, set(signs), last) == ("a", {"sign"}, "b")


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
