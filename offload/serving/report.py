"""What a serving loop shows of itself: its slots now, and counts since it began."""

from collections import Counter
from dataclasses import dataclass, field

from scheduler import AcceptanceCounter, ReuseCounter

from ..engine import NOTHING, Step


@dataclass(frozen=True)
class SlotReport:
    """One slot at a moment."""

    index: int
    state: str  # "free", "prompt" while one is read, "generating"
    num_cached: int = 0  # positions that it holds, of the last sequence if it is free
    prompt_tokens: int = 0
    prompt_reused: int = 0  # of them, found in the slot
    prompt_done: int = 0  # of them, reused or computed
    generated: int = 0
    max_tokens: int = 0
    draft: int | str = 0  # as the request says
    drafter: str = "none"
    drafted: int = 0
    accepted: int = 0
    acceptance_by_position: tuple[float, ...] = ()
    running_s: float = 0.0  # since it got the slot


@dataclass
class Totals:
    """Counts over all requests since the loop began; gauges as they are now."""

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

    def count(self, step: Step, seconds: float) -> None:
        self.steps += 1
        self.step_s += seconds
        self.bytes_read += step.bytes_read
        self.bytes_crossed += step.bytes_crossed
        self.reuse.observe(step.expert_ids)
        for outcome in step.outcomes:
            if outcome is not NOTHING and outcome.draws:
                self.generated_tokens += len(outcome.draws)
                self.acceptance.observe(len(outcome.draft), outcome.accepted)
