"""Turns the engine's steps into text, event by event, and into one result with its statistics."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Many
from dataclasses import dataclass, field

from scheduler import AcceptanceCounter, ReuseCounter

from .engine import Engine, Step
from .errors import PromptError
from .sequence import Sequence
from .tokenizer import Tokenizer


@dataclass(frozen=True)
class TokenEvent:
    """One generated token, in order."""

    token_id: int | None  # None: only text, the rest of a character that the last token left incomplete
    text: str  # what it adds; empty while a character is incomplete
    drafted: bool  # an accepted draft
    p: float  # probability it was drawn with


@dataclass
class Result:
    """A finished generation."""

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    finish_reason: str = ""  # "stop" or "length"
    prompt_tokens: int = 0
    prompt_reused: int = 0  # of them, found in the cache
    prompt_s: float = 0.0
    decode_s: float = 0.0
    decode_bytes: int = 0
    acceptance: AcceptanceCounter = field(default_factory=AcceptanceCounter)
    reuse: ReuseCounter = field(default_factory=ReuseCounter)

    @property
    def prompt_tokens_per_s(self) -> float:
        """Prompt tokens that had to be computed, a second."""
        return (self.prompt_tokens - self.prompt_reused) / self.prompt_s if self.prompt_s else 0.0

    @property
    def decode_tokens_per_s(self) -> float:
        """Tokens after the first, which the prompt's last step gave, by the time of the steps that made them."""
        return (len(self.tokens) - 1) / self.decode_s if self.decode_s else 0.0

    @property
    def gb_per_s(self) -> float:
        """Weights and caches read while decoding, 1e9 bytes a second."""
        return self.decode_bytes / self.decode_s / 1e9 if self.decode_s else 0.0

    def as_json(self) -> dict[str, object]:
        return {
            "text": self.text,
            "tokens": self.tokens,
            "finish_reason": self.finish_reason,
            "prompt_tokens": self.prompt_tokens,
            "prompt_tokens_per_s": round(self.prompt_tokens_per_s, 3),
            "decode_tokens_per_s": round(self.decode_tokens_per_s, 3),
            "steps": self.reuse.steps,
            "drafted": self.acceptance.drafted,
            "accepted": self.acceptance.accepted,
            "acceptance_by_position": [round(share, 4) for share in self.acceptance.by_position],
            "experts_per_step": round(self.reuse.experts_per_step, 3),
            "expert_reuse": round(self.reuse.reuse, 4),
            "gb_per_s": round(self.gb_per_s, 3),
        }


class Generation:
    """Iterates over the tokens of one sequence; `result` grows along and is complete when the iteration ends."""

    def __init__(
        self,
        engine: Engine,
        sequence: Sequence,
        tokenizer: Tokenizer,
        stop_strings: Many[str],
        is_current: Callable[[], bool],
    ):
        self.result = Result(prompt_tokens=len(sequence.token_ids), prompt_reused=sequence.num_cached)
        self._engine, self._sequence, self._tokenizer = engine, sequence, tokenizer
        self._gate = _StopGate(stop_strings)
        self._is_current = is_current

    def finish(self) -> Result:
        """Runs to the end."""
        for _ in self:
            pass
        return self.result

    def __iter__(self) -> Iterator[TokenEvent]:
        result, sequence, stream = self.result, self._sequence, self._tokenizer.stream()
        while not result.finish_reason:
            if not self._is_current():
                raise PromptError("a later call took over this model's cache: finish a generation before the next one")
            started = time.perf_counter()
            step = self._engine.step([sequence])
            self._count(step, time.perf_counter() - started)
            (outcome,) = step.outcomes
            for i, draw in enumerate(outcome.draws):
                result.tokens.append(draw.token_id)
                ended = draw.token_id in sequence.stop_ids
                text = "" if ended else stream.push(draw.token_id)
                drafted = i < outcome.accepted
                yield from self._emit(self._gate.push(TokenEvent(draw.token_id, text, drafted, draw.p)))
                if ended or self._gate.stopped:
                    result.finish_reason = "stop"
                    break
            if not result.finish_reason and len(sequence.token_ids) >= sequence.limit:
                result.finish_reason = "length"
        if not self._gate.stopped:
            yield from self._emit(self._gate.flush(stream.finish()))

    def _emit(self, events: Many[TokenEvent]) -> Iterator[TokenEvent]:
        for event in events:
            self.result.text += event.text
            yield event

    def _count(self, step: Step, seconds: float) -> None:
        result, (outcome,) = self.result, step.outcomes
        if not result.tokens:
            result.prompt_s += seconds
            return
        result.decode_s += seconds
        result.decode_bytes += step.bytes_read
        result.acceptance.observe(len(outcome.draft), outcome.accepted)
        result.reuse.observe(step.expert_ids)


class _StopGate:
    """Holds tokens back while their text could be the beginning of a stop string."""

    def __init__(self, stop_strings: Many[str]):
        self._stop_strings = [s for s in stop_strings if s]
        self._held: deque[TokenEvent] = deque()
        self.stopped = False

    def push(self, event: TokenEvent) -> list[TokenEvent]:
        """Events that are now safe to show; after a stop string was found, those before it."""
        self._held.append(event)
        text = "".join(e.text for e in self._held)
        found = [i for i in (text.find(s) for s in self._stop_strings) if i >= 0]
        if found:
            self.stopped = True
            return self._release(min(found), cut=True)
        return self._release(len(text) - self._dangling(text))

    def flush(self, rest: str) -> list[TokenEvent]:
        """All that is held, at the end of the text; `rest` is what the last token still owed."""
        events = list(self._held)
        self._held.clear()
        return [*events, TokenEvent(None, rest, False, 1.0)] if rest else events

    def _dangling(self, text: str) -> int:
        """Length of the longest end of the text that begins a stop string."""
        longest = 0
        for stop in self._stop_strings:
            for n in range(min(len(stop) - 1, len(text)), longest, -1):
                if text.endswith(stop[:n]):
                    longest = n
                    break
        return longest

    def _release(self, length: int, cut: bool = False) -> list[TokenEvent]:
        """Takes the tokens within the first `length` characters; with `cut`, also the part of the next one."""
        events = []
        while self._held and len(self._held[0].text) <= length:
            event = self._held.popleft()
            length -= len(event.text)
            events.append(event)
        if cut and self._held:
            event = self._held.popleft()
            events.append(TokenEvent(event.token_id, event.text[:length], event.drafted, event.p))
        return events
