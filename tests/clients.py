"""Plain HTTP clients of a server, for tests."""

import json
import ssl
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import httpx

PLAIN = ssl.create_default_context()  # made once: nothing here is encrypted
get, post, options, stream = (partial(f, verify=PLAIN) for f in (httpx.get, httpx.post, httpx.options, httpx.stream))
TEXTS = ("def fib(n):", "It was a fine evening, and", "import os\n", "class Stack:\n    def __init__(self):")


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
