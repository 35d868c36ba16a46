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
    recent: list[int]  # the tokens before it, as many as a draw depends on


class HostDraftSampler:
    """Drafts of several sequences, drawn together one token at a time."""

    def __init__(self, starts: Many[DraftStart]):
        self._starts = starts
        self._draws: list[list[Draw]] = [[] for _ in starts]

    def draw(self, logits_TV: np.ndarray) -> np.ndarray:
        """Next draft tokens, int64 (T,), of the first T sequences."""
        for start, draws, logits_V in zip(self._starts, self._draws, logits_TV, strict=False):
            history = [*start.recent, *(draw.token_id for draw in draws)]
            draws.append(start.sampler.draw(logits_V, start.position + len(draws), history))
        return np.array([draws[-1].token_id for draws in self._draws[: len(logits_TV)]], np.int64)

    def read_back(self) -> list[tuple[list[int], list[float]]]:
        """Token ids and probabilities drawn for each sequence."""
        return [([d.token_id for d in draws], [d.p for d in draws]) for draws in self._draws]
