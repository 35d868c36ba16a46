"""The loop of all drafters that compute: one token after another, for as long as the plan wants, on their own device.

Drafts are drawn where the logits are. Where that is an accelerator they are read back once, when all are drawn: the
plan then decides how far to go without having seen them, and may still drop their tail.
"""

from collections.abc import Sequence as Many
from typing import Protocol

from scheduler import UNSEEN, Draft, StepPlan

from ..sampling import DraftStart
from ..sequence import Sequence
from ..transformer.backend import Array, Backend, DraftSampler


class Chain(Protocol):
    """Where a drafter stands with the T sequences that it drafts for."""

    def guess(self) -> tuple[Array, Array | None]:
        """Logits float32 (T, V) of each one's next token, and the experts int32 (T, K) that this took, if any."""
        ...

    def go_on(self, token_ids_T: Array, parts: Many[slice]) -> None:
        """Takes the tokens that were drawn, and goes on with these parts of the sequences."""
        ...


def draw_drafts(
    chain: Chain, backend: Backend, sequences: Many[Sequence], drafts: list[Draft], chosen: list[int], plan: StepPlan
) -> None:
    """Extends the chosen ones of the drafts, those of `sequences`, one token a pass.

    Args:
        backend: of the device that the chain computes on.
    """
    sampler = backend.draft_sampler([DraftStart(s.sampler, len(s.token_ids), s.recent) for s in sequences])
    active = list(range(len(chosen)))  # of `sequences`
    while True:
        logits_TV, expert_ids_TK = chain.guess()
        token_ids_T = sampler.draw(active, logits_TV)
        for t, k in enumerate(active):
            drafts[chosen[k]].token_ids.append(UNSEEN)
            if expert_ids_TK is not None and backend.reads_back_freely:
                drafts[chosen[k]].expert_ids.append(expert_ids_TK[t])
        if backend.reads_back_freely:
            _show(sampler, drafts, chosen)
        wanted = plan.extend(drafts)
        going_on = [slice(t, t + 1) for t, k in enumerate(active) if wanted[chosen[k]]]
        if not going_on:
            break
        active = [k for k in active if wanted[chosen[k]]]
        chain.go_on(token_ids_T, going_on)
    if not backend.reads_back_freely:
        _show(sampler, drafts, chosen)


def _show(sampler: DraftSampler, drafts: list[Draft], chosen: list[int]) -> None:
    """Reads back what was drawn."""
    for i, (token_ids, p) in zip(chosen, sampler.read_back(), strict=True):
        drafts[i].token_ids[:], drafts[i].p[:] = token_ids, p
