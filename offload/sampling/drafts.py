"""Draws drafts on the host, each sequence with its own sampler, so with its own noise.

A draft then agrees with the trunk wherever their distributions do.
"""

from collections.abc import Sequence as Many
from dataclasses import dataclass

import numpy as np

from .sampler import Draw, Sampler


@dataclass(frozen=True)
class DraftStart:
    """Where the drafts of a sequence begin."""

    sampler: Sampler
    position: int  # of the first draft
    recent: list[int]  # the tokens before it, as many as a draw depends on; all of them are kept


class HostDraftSampler:
    """Drafts of several sequences, drawn together one token at a time."""

    def __init__(self, starts: Many[DraftStart]):
        self._starts = starts
        self._draws: list[list[Draw]] = [[] for _ in starts]

    def draw(self, chosen: Many[int], logits_TV: np.ndarray) -> np.ndarray:
        """Next draft tokens, int64 (T,), of these T of the sequences."""
        for i, logits_V in zip(chosen, logits_TV, strict=True):
            start, draws = self._starts[i], self._draws[i]
            history = [*start.recent, *(draw.token_id for draw in draws)]
            draws.append(start.sampler.guess(logits_V, start.position + len(draws), history))
        return np.array([self._draws[i][-1].token_id for i in chosen], np.int64)

    def read_back(self) -> list[tuple[list[int], list[float]]]:
        """Token ids drawn for each sequence, and confidence in them."""
        return [([d.token_id for d in draws], [d.confidence for d in draws]) for draws in self._draws]
