"""The loop: one thread that steps all running requests together and admits waiting ones between steps.

A request that comes gets a free slot or waits, first come first served; at most `max_waiting` wait. Every step takes a
row, and drafts, of each sequence that is being generated, and prompts in chunks as the engine paces them. Between two
steps the loop frees the slots of those that ended or were cancelled, and admits others.

If a step fails, its sequences are stepped one by one: what fails alone ends with its error, the others go on. Where the
step had advanced some already, all of them end. What failed slots hold is forgotten.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections import deque
from copy import deepcopy
from typing import TYPE_CHECKING

from ..engine import NOTHING, Step
from ..errors import Closing, EngineFailed, OptionError, QueueFull
from ..request import GenerationRequest
from .answer import CANCELLED, Answer
from .report import SlotReport, Totals

if TYPE_CHECKING:
    from ..api import LanguageModel


class ServingLoop:
    """Runs requests of a model; all methods may be called from any thread."""

    def __init__(self, model: LanguageModel, max_waiting: int = 64):
        if max_waiting < 0:
            raise OptionError(f"max_waiting is {max_waiting}; it must be 0 or more")
        self.model, self.max_waiting = model, max_waiting
        self.error: BaseException | None = None  # what killed the loop
        self._engine = model.engine()
        self._changed = threading.Condition()  # guards what follows
        self._waiting: deque[Answer] = deque()
        self._running: list[Answer] = []  # in the order of their coming
        self._totals = Totals()
        self._ends_at: float | None = None  # when closing: until then running answers may finish
        self._thread = threading.Thread(target=self._run, name="serving", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    @property
    def is_open(self) -> bool:
        """Whether requests are taken."""
        return self.error is None and self._ends_at is None

    def submit(self, request: GenerationRequest) -> Answer:
        """Queues a request.

        Raises:
            PromptError: an empty prompt, ids outside the vocabulary, or (ContextFull) more than a slot holds.
            OptionError: an illegal parameter.
            QueueFull: as many requests wait as may.
            Closing: the loop is closing or closed.
            EngineFailed: the loop died of an error.
        """
        answer = Answer(request, self.model.sequence(request), self._wake)
        with self._changed:
            try:
                self._check_room()
            except Exception:
                self._totals.refused += 1
                raise
            self._totals.submitted += 1
            self._waiting.append(answer)
            self._changed.notify()
        return answer

    def slots(self) -> list[SlotReport]:
        """Every slot as it is now."""
        with self._changed:
            running = {answer.sequence.slot: answer for answer in self._running}
        return [
            _report(i, running[i]) if i in running else SlotReport(i, "free", self.model.slots[i].num_cached)
            for i in range(len(self.model.slots))
        ]

    def totals(self) -> Totals:
        """Counts since the beginning."""
        with self._changed:
            totals = deepcopy(self._totals)
            totals.running, totals.waiting = len(self._running), len(self._waiting)
        return totals

    def close(self, grace_s: float = 0.0) -> None:
        """Takes no more requests, ends those that wait with `Closing`, and lets the running ones go on for `grace_s`.

        What is not done then ends as cancelled. Returns when the thread has ended. May be called again to hurry it.
        """
        with self._changed:
            ends_at = time.monotonic() + grace_s
            self._ends_at = ends_at if self._ends_at is None else min(ends_at, self._ends_at)
            self._changed.notify()
        if self._thread is not threading.current_thread():
            self._thread.join()
        atexit.unregister(self.close)

    def _check_room(self) -> None:
        if self.error is not None:
            raise EngineFailed(f"the serving loop has died: {self.error!r}") from self.error
        if self._ends_at is not None:
            raise Closing("no more requests are taken: the server is shutting down")
        free = len(self.model.slots) - len(self._running)
        if len(self._waiting) >= self.max_waiting + free:
            raise QueueFull(f"{self.max_waiting} requests wait for a slot already, the most that may: try again later")

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify()

    def _run(self) -> None:
        try:
            while self._prepare():
                self._step()
        except BaseException as error:
            with self._changed:
                self.error = error
                lost = [*self._running, *self._waiting]
                self._running, self._waiting = [], deque()
            for answer in lost:
                self._end(answer, _failure(error))

    def _prepare(self) -> bool:
        """Waits for work, and settles who takes part in the next step; False at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._running or self._waiting or self._ends_at is not None)
            refused = list(self._waiting) if self._ends_at is not None else []
            over = self._ends_at is not None and time.monotonic() >= self._ends_at
            cancelled = [a for a in (*self._running, *self._waiting) if a.is_cancelled and a not in refused]
            cancelled += [a for a in self._running if over and a not in cancelled]
            for answer in (*refused, *cancelled):
                (self._running if answer in self._running else self._waiting).remove(answer)
        for answer in refused:
            self._end(answer, Closing("the server is shutting down: the request was not begun"))
        for answer in cancelled:
            self._end(answer)
        self._admit()
        return bool(self._running) or self._ends_at is None

    def _admit(self) -> None:
        """Gives free slots to those that wait."""
        while self._waiting and self.model.slots.num_free:
            with self._changed:
                answer = self._waiting.popleft()
                self._running.append(answer)
            self.model.take_slot(answer.sequence)
            answer.transcript = self.model.transcript(answer.sequence, answer.request)
            answer.began_at = time.monotonic()
            with self._changed:
                self._totals.prompt_tokens += answer.result.prompt_tokens
                self._totals.prompt_reused += answer.result.prompt_reused

    def _step(self) -> None:
        """Steps all that run."""
        answers = list(self._running)
        if not answers:
            return
        before = [len(a.sequence.token_ids) + a.sequence.num_cached for a in answers]
        try:
            self._step_of(answers)
        except Exception as error:
            advanced = before != [len(a.sequence.token_ids) + a.sequence.num_cached for a in answers]
            for answer in answers:
                if advanced:
                    self._fail(answer, _failure(error))
                else:
                    self._step_alone(answer)

    def _step_alone(self, answer: Answer) -> None:
        try:
            self._step_of([answer])
        except Exception as error:
            self._fail(answer, error)

    def _step_of(self, answers: list[Answer]) -> None:
        started = time.perf_counter()
        step = self._engine.step([answer.sequence for answer in answers])
        seconds = time.perf_counter() - started
        with self._changed:
            self._totals.count(step, seconds)
        for i, answer in enumerate(answers):
            if step.outcomes[i] is not NOTHING:
                try:
                    self._take(answer, step, i, seconds)
                except Exception as error:
                    self._fail(answer, error)

    def _take(self, answer: Answer, step: Step, i: int, seconds: float) -> None:
        """Shows an answer what the step gave it."""
        assert answer.transcript is not None
        answer.put(answer.transcript.take(step, step.outcomes[i], seconds))
        if answer.request.explain:
            answer.request.explain(step.plan.explain())
        if answer.result.finish_reason:
            self._leave(answer)

    def _fail(self, answer: Answer, error: Exception) -> None:
        self.model.slots.forget(answer.sequence.slot)
        self._leave(answer, error)

    def _leave(self, answer: Answer, error: Exception | None = None) -> None:
        with self._changed:
            self._running.remove(answer)
        self._end(answer, error)

    def _end(self, answer: Answer, error: Exception | None = None) -> None:
        self.model.slots.leave(answer.sequence)
        with self._changed:
            self._totals.ended["error" if error else answer.result.finish_reason or CANCELLED] += 1
        answer.end(error)


def _failure(error: BaseException) -> EngineFailed:
    failure = EngineFailed(f"a step failed for all requests in it: {error!r}")
    failure.__cause__ = error
    return failure


def _report(index: int, answer: Answer) -> SlotReport:
    sequence, result, request = answer.sequence, answer.result, answer.request
    generating = sequence.num_cached >= sequence.num_prompt or bool(result.tokens)
    return SlotReport(
        index,
        "generating" if generating else "prompt",
        sequence.num_cached,
        result.prompt_tokens,
        result.prompt_reused,
        min(sequence.num_cached, sequence.num_prompt),
        len(result.tokens),
        request.max_tokens,
        request.draft,
        request.drafter,
        result.acceptance.drafted,
        result.acceptance.accepted,
        tuple(result.acceptance.by_position),
        time.monotonic() - answer.began_at if answer.began_at is not None else 0.0,
    )
