"""Generates one sequence in the caller's thread, step by step as its tokens are asked for."""

import time
from collections import deque
from collections.abc import Callable, Iterator

from scheduler import StepPlan

from .engine import Engine
from .errors import PromptError
from .result import Result, TokenEvent
from .slots import Slots
from .transcript import Transcript


class Generation:
    """Iterates over the tokens of one sequence; `result` grows along and is complete when the iteration ends."""

    def __init__(self, engine: Engine, transcript: Transcript, slots: Slots, explain: Callable[[str], None] | None):
        self.result = transcript.result
        self._engine, self._transcript, self._sequence = engine, transcript, transcript.sequence
        self._slots, self._explain = slots, explain
        self._events: deque[TokenEvent] = deque()  # of steps that are done, not asked for yet

    def finish(self) -> Result:
        """Runs to the end."""
        for _ in self:
            pass
        return self.result

    def __iter__(self) -> Iterator[TokenEvent]:
        while self._events or not self.result.finish_reason:
            while self._events:
                yield self._events.popleft()
            if not self.result.finish_reason:
                self._step()

    def _step(self) -> None:
        with self._slots.turn:
            if not self._slots.holds(self._sequence):
                raise PromptError(
                    "a later call took over this model's cache, or a step of this generation failed half way: begin it "
                    "anew, and finish a generation before the next one"
                )
            plan = self._advance()
            if self._explain:
                self._explain(plan.explain())
            if self.result.finish_reason:
                self._slots.leave(self._sequence)

    def _advance(self) -> StepPlan:
        """One step, and its tokens as events; where it fails between the two, the sequence cannot go on."""
        sequence, started = self._sequence, time.perf_counter()
        num_tokens = len(sequence.token_ids)
        try:
            step = self._engine.step([sequence])
            (outcome,) = step.outcomes
            self._events += self._transcript.take(step, outcome, time.perf_counter() - started)
        except BaseException:  # an interrupt, too
            if len(sequence.token_ids) > num_tokens:
                self._slots.forget(sequence.slot)
            raise
        return step.plan
