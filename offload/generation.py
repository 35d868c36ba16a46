"""Turns the engine's steps into text, token by token."""

import time
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Many

from .engine import Engine, Step
from .errors import PromptError
from .result import Result, TokenEvent
from .sequence import Sequence
from .stop_strings import StopGate
from .tokenizer import Tokenizer


class Generation:
    """Iterates over the tokens of one sequence; `result` grows along and is complete when the iteration ends."""

    def __init__(
        self,
        engine: Engine,
        sequence: Sequence,
        tokenizer: Tokenizer,
        stop_strings: Many[str],
        is_current: Callable[[], bool],
        explain: Callable[[str], None] | None = None,
    ):
        self.result = Result(prompt_tokens=len(sequence.token_ids), prompt_reused=sequence.num_cached)
        self._engine, self._sequence, self._tokenizer = engine, sequence, tokenizer
        self._gate = StopGate(stop_strings)
        self._is_current, self._explain = is_current, explain

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
            if self._explain:
                self._explain(step.plan.explain())
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
            self.result.pieces.append(event.text)
            yield event

    def _count(self, step: Step, seconds: float) -> None:
        result, (outcome,) = self.result, step.outcomes
        result.bytes_crossed += step.bytes_crossed
        if not result.tokens:
            result.prompt_s += seconds
            return
        result.decode_s += seconds
        result.decode_bytes += step.bytes_read
        result.decode_emulated_s += step.emulated_s
        result.acceptance.observe(len(outcome.draft), outcome.accepted)
        result.reuse.observe(step.expert_ids)
