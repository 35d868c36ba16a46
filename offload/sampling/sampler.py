"""Drafter-invariant sampling: the token at a position is a function of its logits, the seed and the position.

    token = argmax over the candidates i of  log p_i + Gumbel(seed, position, i)

This draws from p exactly, and no draft can change it. A drafter that draws from its own distribution with the same
noise agrees with the model far more often than a greedy one.

Source: Daliri et al. 2024, "Coupling without communication and drafter-invariant speculative decoding"
(arXiv:2408.07978).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .filters import adjusted, candidates
from .noise import gumbel
from .params import SamplingParams


@dataclass(frozen=True)
class Draw:
    token_id: int
    p: float  # probability of the token under the distribution it was drawn from


@dataclass(frozen=True)
class Sampler:
    """Draws tokens of one sequence."""

    params: SamplingParams

    def draw(self, logits_V: np.ndarray, position: int, history: Sequence[int]) -> Draw:
        """The token at `position`.

        Args:
            logits_V: float32 (V,).
            position: of the token to be drawn, counted from the start of the sequence.
            history: the tokens before it, at least the last `look_back` that there are.
        """
        logits_V = adjusted(logits_V, self.params, history)
        if self.params.temperature == 0:
            best = int(np.argmax(logits_V))
            return Draw(best, float(1 / np.exp(logits_V - logits_V[best], dtype=np.float64).sum()))
        ids, log_p = candidates(logits_V, self.params)
        best = int(np.argmax(log_p + gumbel(self.params.seed, position, ids)))
        return Draw(int(ids[best]), float(np.exp(log_p[best])))
