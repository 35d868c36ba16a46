"""Draws drafts on the host, each sequence with its own sampler, so with its own noise.

A draft then agrees with the trunk wherever their distributions do.
"""

from collections.abc import Sequence as Many

import numpy as np

from .sampler import Draw, Sampler


class HostDraftSampler:
    """Drafts of several sequences, drawn together one token at a time."""

    def __init__(self, samplers: Many[Sampler], histories: Many[Many[int]]):
        self._samplers, self._histories = samplers, histories
        self._draws: list[list[Draw]] = [[] for _ in samplers]

    def draw(self, logits_TV: np.ndarray) -> np.ndarray:
        """Next draft tokens, int64 (T,), of the first T sequences."""
        for i, logits_V in enumerate(logits_TV):
            history = [*self._histories[i], *(draw.token_id for draw in self._draws[i])]
            self._draws[i].append(self._samplers[i].draw(logits_V, len(history), history))
        return np.array([draws[-1].token_id for draws in self._draws[: len(logits_TV)]], np.int64)

    def read_back(self) -> list[tuple[list[int], list[float]]]:
        """Token ids and probabilities drawn for each sequence."""
        return [([d.token_id for d in draws], [d.p for d in draws]) for draws in self._draws]
