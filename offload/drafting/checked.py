"""What a drafter from outside guesses, looked at before it is verified: a wrong guess costs time, one that is no guess
at all would end the run, or never end it."""

from collections.abc import Sequence as Many
from operator import index

from scheduler import Draft, StepPlan

from ..errors import OptionError
from ..sequence import Sequence
from ..transformer.backend import Backend
from .protocol import Drafter, Observation


class CheckedDrafter:
    """The same drafter, whose drafts are lists of tokens of the vocabulary, no longer than the plan wants.

    Raises:
        OptionError: of `propose`: something else came in place of drafts.
    """

    def __init__(self, drafter: Drafter, vocab_size: int):
        self._drafter, self._vocab_size, self._name = drafter, vocab_size, type(drafter).__name__

    @property
    def backend(self) -> Backend | None:
        return self._drafter.backend

    @property
    def keeps_slots(self) -> bool:
        return self._drafter.keeps_slots

    @property
    def taps(self) -> Many[int]:
        return self._drafter.taps

    @property
    def bytes_read(self) -> int:
        return self._drafter.bytes_read

    def propose(self, sequences: Many[Sequence], plan: StepPlan) -> list[Draft]:
        drafts = self._drafter.propose(sequences, plan)
        if not isinstance(drafts, list) or len(drafts) != len(sequences):
            raise OptionError(
                f"{self._name} proposes {drafts!r:.80}; it must be a list of {len(sequences)}, one Draft a sequence"
            )
        return [self._checked(draft).first(limit) for draft, limit in zip(drafts, plan.limits, strict=True)]

    def observe(self, observations: Many[Observation]) -> None:
        self._drafter.observe(observations)

    def _checked(self, draft: Draft) -> Draft:
        if not isinstance(draft, Draft):
            raise OptionError(f"{self._name} proposes {draft!r:.80}; it must be a Draft")
        try:
            token_ids = [index(token_id) for token_id in draft.token_ids]
            p = [float(p) for p in draft.p]
        except (TypeError, ValueError) as error:
            raise OptionError(f"{self._name} drafts {draft!r:.80}; it must be token ids and numbers: {error}") from None
        for token_id in token_ids:
            if not 0 <= token_id < self._vocab_size:
                raise OptionError(f"{self._name} drafts token {token_id}; the legal range is 0..{self._vocab_size - 1}")
        if len(p) > len(token_ids) or any(not 0 <= value <= 1 for value in p if value == value):
            raise OptionError(
                f"{self._name} is confident by {p!r:.80} in {len(token_ids)} tokens; it must be 0 to 1 for each, or NaN"
            )
        return Draft(token_ids, p, draft.source, draft.expert_ids)
