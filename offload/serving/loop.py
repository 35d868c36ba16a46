"""The loop: one thread that steps all running requests together and admits waiting ones between steps.

A request that comes gets a free slot or waits, first come first served; at most `max_waiting` wait. Every step takes a
row, and drafts, of each sequence that is being generated, and prompts in chunks as the engine paces them. Between two
steps the loop frees the slots of those that ended or were cancelled, and admits others.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from ..errors import Closing, EngineFailed, OptionError, QueueFull
from ..request import GenerationRequest
from .answer import CANCELLED, Answer
from .batch import Batch, failure
from .heat import ExpertHeat
from .report import SlotReport, slot_report
from .totals import Totals

if TYPE_CHECKING:
    from ..api import LanguageModel


class ServingLoop:
    """Runs requests of a model; all methods may be called from any thread."""

    def __init__(self, model: LanguageModel, max_waiting: int = 64):
        if max_waiting < 0:
            raise OptionError(f"max_waiting is {max_waiting}; it must be 0 or more")
        self.model, self.max_waiting = model, max_waiting
        self.error: BaseException | None = None  # what killed the loop
        self._batch = Batch(model)  # of the loop's thread; others only look
        self._changed = threading.Condition()  # guards what follows
        self._waiting: deque[Answer] = deque()
        self._ends_at: float | None = None  # when closing: until then running answers may finish
        self._thread = threading.Thread(target=self._run, name="serving", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    @property
    def is_open(self) -> bool:
        """Whether requests are taken."""
        return self.error is None and self._ends_at is None and self.is_running

    @property
    def is_running(self) -> bool:
        """Whether its thread works with the model."""
        return self._thread.is_alive()

    @property
    def num_running(self) -> int:
        return len(self._batch.answers)

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    def submit(self, request: GenerationRequest) -> Answer:
        """Queues a request.

        Raises:
            PromptError: an empty prompt, ids outside the vocabulary, or (ContextFull) more than a slot holds.
            OptionError: an illegal parameter.
            QueueFull: as many requests wait as may.
            Closing: the loop is closing or closed.
            EngineFailed: the loop died of an error, or its thread did not follow into a forked process.
        """
        self._check_process()
        answer = Answer(request, self.model.sequence(request), self._wake)
        with self._changed:
            try:
                self._check_room()
            except Exception:
                self._batch.tally.refused()
                raise
            self._batch.tally.submitted()
            self._waiting.append(answer)
            self._changed.notify()
        return answer

    def slots(self) -> list[SlotReport]:
        """Every slot as it is now."""
        running = {answer.sequence.slot: answer for answer in list(self._batch.answers)}
        return [
            slot_report(i, running[i]) if i in running else SlotReport(i, "free", self.model.slots[i].num_cached)
            for i in range(len(self.model.slots))
        ]

    def totals(self) -> Totals:
        """Totals since the beginning."""
        return self._batch.tally.snapshot(self.num_running, self.num_waiting)

    @property
    def heat(self) -> ExpertHeat:
        """Experts of the last steps."""
        return self._batch.heat

    def close(self, grace_s: float = 0.0) -> None:
        """Takes no more requests, ends those that wait with `Closing`, and lets the running ones go on for `grace_s`.

        What is not done then ends as cancelled. Returns when the thread has ended. May be called again to hurry it.
        """
        atexit.unregister(self.close)
        if not self.is_running:  # in a forked process the lock may be held by nobody
            return
        with self._changed:
            ends_at = time.monotonic() + grace_s
            self._ends_at = ends_at if self._ends_at is None else min(ends_at, self._ends_at)
            self._changed.notify()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _check_process(self) -> None:
        if not self.is_running and self.error is None and self._ends_at is None:
            raise EngineFailed("the loop's thread did not follow into this forked process: start one by model.serve()")

    def _check_room(self) -> None:
        if self.error is not None:
            raise EngineFailed(f"the serving loop has died: {self.error!r}") from self.error
        if self._ends_at is not None:
            raise Closing("no more requests are taken: the server is shutting down")
        if self.num_waiting + self.num_running >= self.max_waiting + len(self.model.slots):
            raise QueueFull(f"{self.max_waiting} requests wait for a slot already, the most that may: try again later")

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify()

    def _run(self) -> None:
        try:
            while self._prepare():
                self._batch.step()
        except BaseException as error:
            self._die(error)

    def _prepare(self) -> bool:
        """Waits for work, and settles who takes part in the next step; False at the end."""
        running = self._batch.answers
        with self._changed:
            self._changed.wait_for(lambda: running or self._waiting or self._ends_at is not None)
            closing = self._ends_at is not None
            over = self._ends_at is not None and time.monotonic() >= self._ends_at
            out = [answer for answer in self._waiting if closing or answer.is_cancelled]
            for answer in out:
                self._waiting.remove(answer)
        for answer in out:
            self._refuse(answer)
        for answer in [answer for answer in running if over or answer.is_cancelled]:
            self._batch.leave(answer)
        while self._waiting and self.model.slots.num_free:
            with self._changed:  # who counts the running and the waiting sees the answer among either
                self._batch.admit(self._waiting.popleft())
        return bool(running) or not closing

    def _refuse(self, answer: Answer) -> None:
        """Ends an answer that has no slot yet."""
        closing = None if answer.is_cancelled else Closing("the server is shutting down: the request was not begun")
        self._batch.tally.over("error" if closing else CANCELLED)
        answer.end(closing)

    def _die(self, error: BaseException) -> None:
        with self._changed:
            self.error = error
            waiting, self._waiting = self._waiting, deque()
        for answer in list(self._batch.answers):
            self._batch.leave(answer, failure(error))
        for answer in waiting:
            answer.end(failure(error))
