"""Drafts what followed the last occurrence of the sequence's final n-gram: free, and right where text repeats itself.

Where a grammar leaves one token only, as in the keys of a JSON schema, that is the draft: it cannot be wrong.

Source: prompt lookup decoding (Saxena 2023), as llama.cpp's `lookup` and vLLM's `ngram` have it.
"""

from collections.abc import Sequence as Many
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from scheduler import NO_DRAFT, StepPlan

from ..sequence import Sequence
from .protocol import Draft, Observation

LONGEST, SHORTEST = 4, 2  # n-grams looked up, longest first
MOST_COMPARED = 16  # tokens that count for the confidence
SOURCE, FORCED = "ngram", "grammar"


@dataclass
class _Index:
    """For each n-gram of a sequence the position behind its last occurrence, and for the final one behind the last
    but that."""

    behind: dict[tuple[int, ...], int] = field(default_factory=dict)
    num_indexed: int = 0  # n-grams that end before or at this position are in
    before_final: int | None = None

    def look_up(self, token_ids: list[int]) -> int | None:
        """Behind which position the longest n-gram that ends the text stood before; None if it never did."""
        behind = self.behind
        for end in range(self.num_indexed + 1, len(token_ids) + 1):
            found, ngram = None, tuple(token_ids[max(0, end - LONGEST) : end])
            while len(ngram) >= SHORTEST:
                if found is None:
                    found = behind.get(ngram)
                behind[ngram] = end
                ngram = ngram[1:]
            self.before_final = found
        self.num_indexed = len(token_ids)
        return self.before_final


class NgramDrafter:
    backend = None
    keeps_slots = False
    taps = ()
    bytes_read = 0

    def __init__(self) -> None:
        self._indices: WeakKeyDictionary[Sequence, _Index] = WeakKeyDictionary()

    def propose(self, sequences: Many[Sequence], plan: StepPlan) -> list[Draft]:
        return [
            self._propose(s, limit) if limit and s.drafting.ngram else NO_DRAFT
            for s, limit in zip(sequences, plan.limits, strict=True)
        ]

    def _propose(self, sequence: Sequence, length: int) -> Draft:
        matcher = sequence.sampler.matcher
        if matcher and (forced := matcher.forced(length)):
            return Draft(forced, [1.0] * len(forced), FORCED)
        index = self._indices.get(sequence)
        if index is None:
            index = self._indices[sequence] = _Index()
        text = sequence.token_ids
        start = index.look_up(text)
        if start is None:
            return NO_DRAFT
        guessed: list[int] = []
        for i in range(start, start + length):  # a draft may run on into itself: "ab ab ab"
            guessed.append(text[i] if i < len(text) else guessed[i - len(text)])
        return sequence.allowed(Draft(guessed, [_confidence(text, start)] * length, SOURCE))

    def observe(self, observations: Many[Observation]) -> None:
        """Nothing to learn: the sequence's own tokens say it all."""


def _confidence(token_ids: list[int], behind: int) -> float:
    """The longer the text before `behind` is the same as at the end, the surer: n / (n + 1) for n equal tokens."""
    same = 0
    while same < min(MOST_COMPARED, behind) and token_ids[behind - 1 - same] == token_ids[-1 - same]:
        same += 1
    return same / (same + 1)
