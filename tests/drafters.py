"""Drafters that know the future: one always right, one always wrong."""

import math
from collections.abc import Sequence as Many

from offload.drafting import Draft, NoDrafter, Observation
from offload.sequence import Sequence
from scheduler import StepPlan


class AlwaysRight(NoDrafter):
    """Drafts what plain decoding gave."""

    def __init__(self, prompt_ids: Many[int], plain_ids: Many[int]):
        self.future = [*prompt_ids, *plain_ids]

    def propose(self, sequences: Many[Sequence], plan: StepPlan) -> list[Draft]:
        return [self.draft(s.token_ids, limit) for s, limit in zip(sequences, plan.limits, strict=True)]

    def draft(self, token_ids: list[int], length: int) -> Draft:
        guessed = self.future[len(token_ids) : len(token_ids) + length]
        return Draft(guessed, [math.nan] * len(guessed))

    def observe(self, observations: Many[Observation]) -> None:
        for o in observations:
            assert len(o.next_token_ids) == len(o.hidden_TD)
            assert o.sequence.token_ids[o.start + 1 : o.start + 1 + len(o.next_token_ids)] == o.next_token_ids


class AlwaysWrong(AlwaysRight):
    """Drafts anything but what plain decoding gave."""

    def draft(self, token_ids: list[int], length: int) -> Draft:
        right = super().draft(token_ids, length)
        return Draft([token_id ^ 1 for token_id in right.token_ids], right.p)
