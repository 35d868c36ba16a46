"""Requests of the clients of `load_server`."""

import json
import random
from dataclasses import dataclass
from typing import Any

NEVER = 1 << 30
STARTS = (
    "def fib(n):\n", "import os\nimport sys\n\n", "It was a fine evening, and the family were sitting together when",
    "class Stack:\n    def __init__(self):\n        self.items = []\n\n", "The captain said that",
)  # fmt: skip


@dataclass(frozen=True)
class Ask:
    """One request and what is expected of it."""

    kind: str  # "polite", "leaving", "malformed"
    path: str
    content: bytes
    statuses: tuple[int, ...]  # besides 503, which says that the queue is full
    first_line: int = NEVER  # the event that holds the first token
    leaves_after: int = NEVER  # events


def polite(rng: random.Random, leaves: bool) -> Ask:
    """A request of one of the protocols, short or long; its client may go midway."""
    text = "".join(rng.choice(STARTS) for _ in range(rng.choice((1, 1, 2, 4, 16, 40))))
    num_tokens = rng.choice((4, 16, 16, 32, 64, 128))
    stream = leaves or rng.random() < 0.7
    body: dict[str, Any] = {"stream": stream, "max_tokens": num_tokens, "temperature": rng.choice((0, 0.7, 1.0))}
    body["speculative"] = rng.choice(({"type": "auto"}, {"type": "mtp", "max_tokens": 2}, {"type": "off"}))
    path, more, first = rng.choice(
        (
            ("/v1/completions", {"prompt": text}, 1),
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": text}]}, 2),
            ("/v1/messages", {"messages": [{"role": "user", "content": text}]}, 3),
        )
    )
    content = json.dumps(body | more).encode()
    leaves_after = rng.randint(first, first + num_tokens // 2) if leaves else NEVER
    return Ask("leaving" if leaves else "polite", path, content, (200,), first if stream else NEVER, leaves_after)


def canary() -> dict[str, Any]:
    """A request whose answer is always the same."""
    return {"prompt": STARTS[3], "max_tokens": 64, "seed": 7, "temperature": 0.6}


def _malformed(path: str, content: bytes, *statuses: int) -> Ask:
    return Ask("malformed", path, content, statuses or (400,))


MALFORMED = (
    _malformed("/v1/chat/completions", b"{"),
    _malformed("/v1/chat/completions", b'{"messages": [{"role": "user", "content": "\xff"}]}'),
    _malformed("/v1/chat/completions", b'{"messages": 7}'),
    _malformed("/v1/completions", b'{"prompt": "x", "temperature": 1e999}'),
    _malformed("/v1/completions", b'{"prompt": ' + b"[" * 100_000),
    _malformed("/v1/completions", json.dumps({"prompt": "x " * 200_000}).encode()),
    _malformed("/v1/messages", b'{"max_tokens": 5}'),
    _malformed("/v1/nothing", b"{}", 404),
    _malformed("/health", b"{}", 405),
)
