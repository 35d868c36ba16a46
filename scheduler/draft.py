"""A guess at the next tokens of a sequence, and what is known about it before it is verified."""

from dataclasses import dataclass, field

import numpy as np

UNSEEN = -1  # in place of a token that was drawn on a device and not read back yet


@dataclass(frozen=True)
class Draft:
    """Guessed tokens of one sequence, next token first.

    `p` is the drafter's confidence in each, 0 to 1, NaN where it has none; the tokens beyond it are UNSEEN.
    """

    token_ids: list[int] = field(default_factory=list)
    p: list[float] = field(default_factory=list)
    source: str = ""  # who guessed: acceptance is learned for each source
    expert_ids: list[np.ndarray] = field(default_factory=list)  # int32 (K,) that an MTP block used to guess each token

    def __len__(self) -> int:
        return len(self.token_ids)

    def first(self, length: int) -> "Draft":
        """The draft cut to `length` tokens; itself if it has no more."""
        if length >= len(self.token_ids):
            return self
        return Draft(self.token_ids[:length], self.p[:length], self.source, self.expert_ids[:length])


NO_DRAFT = Draft()
