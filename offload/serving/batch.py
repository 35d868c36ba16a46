"""Requests that run together, each in a slot of its own: one step for all of them, one thread.

If a step fails, its sequences are stepped one by one: what fails alone ends with its error, the others go on. Where the
step had advanced some already, all of them end. What failed slots hold is forgotten.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ..engine import NOTHING, Step
from ..errors import EngineFailed
from .answer import CANCELLED, Answer
from .heat import ExpertHeat
from .totals import Tally

if TYPE_CHECKING:
    from ..api import LanguageModel


class Batch:
    """All answers that run, each with its sequence in a slot; belongs to the loop's thread."""

    def __init__(self, model: LanguageModel):
        self.model, self.engine = model, model.engine()
        self.answers: list[Answer] = []  # that run, in the order of their coming
        self.tally = Tally()
        self.heat = ExpertHeat(model.config.num_experts)

    def admit(self, answer: Answer) -> None:
        """Puts it into a slot: it takes part in steps from now on."""
        self.model.take_slot(answer.sequence)
        answer.begin(self.model.transcript(answer.sequence, answer.request))
        self.answers.append(answer)
        self.tally.begun(answer.result)

    def step(self) -> None:
        """Steps all that run."""
        for answer in list(self.answers):
            self._catch_up(answer)
        answers = list(self.answers)
        if not answers:
            return
        before = [_progress(answer) for answer in answers]
        try:
            self._step(answers)
        except Exception as error:
            advanced = before != [_progress(answer) for answer in answers]
            for answer in answers:
                if advanced:
                    self._fail(answer, failure(error))
                else:
                    self._step_alone(answer)

    def _catch_up(self, answer: Answer) -> None:
        """Where another one has read the same prompt, it does not read it again."""
        if answer.result.tokens:
            return
        try:
            reused = self.model.catch_up(answer.sequence)
        except Exception as error:
            self._fail(answer, error)
        else:
            answer.result.prompt_reused += reused
            self.tally.reused(reused)

    def leave(self, answer: Answer, error: Exception | None = None) -> None:
        """It runs no more: it is done, failed, or was cancelled."""
        self.answers.remove(answer)
        self.model.slots.leave(answer.sequence)
        self.tally.over("error" if error else answer.result.finish_reason or CANCELLED)
        answer.end(error)

    def _step_alone(self, answer: Answer) -> None:
        try:
            self._step([answer])
        except Exception as error:
            self._fail(answer, error)

    def _step(self, answers: list[Answer]) -> None:
        started = time.perf_counter()
        step = self.engine.step([answer.sequence for answer in answers])
        seconds = time.perf_counter() - started
        self.tally.count(step, seconds)
        self.heat.observe(step.expert_ids)
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
            self.leave(answer)

    def _fail(self, answer: Answer, error: Exception) -> None:
        self.model.slots.forget(answer.sequence.slot)
        self.leave(answer, error)


def failure(error: BaseException) -> EngineFailed:
    """What each request is told where all of a step failed."""
    told = EngineFailed(f"a step failed for all requests in it: {error!r}")
    told.__cause__ = error
    return told


def _progress(answer: Answer) -> tuple[int, int]:
    return len(answer.sequence.token_ids), answer.sequence.num_cached
