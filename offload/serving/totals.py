"""Counts of a serving loop since it began."""

import threading
from collections import Counter
from copy import deepcopy
from dataclasses import dataclass, field

from scheduler import AcceptanceCounter, ReuseCounter

from ..engine import Step
from ..result import Result


@dataclass
class Totals:
    """Counts over all requests; `running` and `waiting` as they are now."""

    running: int = 0
    waiting: int = 0
    submitted: int = 0
    refused: int = 0  # the queue was full, or the loop closing
    ended: Counter[str] = field(default_factory=Counter)  # by finish_reason; "error" for the others
    prompt_tokens: int = 0  # of prompts that were begun
    prompt_reused: int = 0  # of them, found in a slot
    generated_tokens: int = 0
    steps: int = 0
    step_s: float = 0.0
    bytes_read: int = 0  # weights and caches, each distinct weight once a step
    bytes_crossed: Counter[tuple[str, str]] = field(default_factory=Counter)  # by role and direction
    acceptance: AcceptanceCounter = field(default_factory=AcceptanceCounter)
    reuse: ReuseCounter = field(default_factory=ReuseCounter)


class Tally:
    """Counts that one thread adds to and others read."""

    def __init__(self) -> None:
        self._counts = Totals()
        self._lock = threading.Lock()

    def snapshot(self, running: int, waiting: int) -> Totals:
        """A copy as of now."""
        with self._lock:
            totals = deepcopy(self._counts)
        totals.running, totals.waiting = running, waiting
        return totals

    def submitted(self) -> None:
        with self._lock:
            self._counts.submitted += 1

    def refused(self) -> None:
        with self._lock:
            self._counts.refused += 1

    def begun(self, result: Result) -> None:
        """A request got its slot."""
        with self._lock:
            self._counts.prompt_tokens += result.prompt_tokens
            self._counts.prompt_reused += result.prompt_reused

    def reused(self, num_tokens: int) -> None:
        """Prompt tokens of a request that runs were found in a slot after all."""
        with self._lock:
            self._counts.prompt_reused += num_tokens

    def over(self, reason: str) -> None:
        """A request ended."""
        with self._lock:
            self._counts.ended[reason] += 1

    def count(self, step: Step, seconds: float) -> None:
        """A step was done."""
        with self._lock:
            counts = self._counts
            counts.steps += 1
            counts.step_s += seconds
            counts.bytes_read += step.bytes_read
            counts.bytes_crossed += step.bytes_crossed
            counts.reuse.observe(step.expert_ids)
            for outcome in step.outcomes:
                if outcome.draws:
                    counts.generated_tokens += len(outcome.draws)
                    counts.acceptance.observe(len(outcome.draft), outcome.accepted)
