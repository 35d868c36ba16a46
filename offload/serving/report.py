"""What a serving loop shows of its slots."""

import time
from dataclasses import dataclass

from .answer import Answer


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


def slot_report(index: int, answer: Answer) -> SlotReport:
    """A slot in which an answer runs."""
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
