"""Drafter-invariant sampling: the token at a position is a function of its logits, the tokens before it and the seed.

    token = argmax over the candidates i of  log p_i + Gumbel(seed, position, i)

This draws from p exactly, and no draft can change it. A drafter that draws from its own distribution with the same
noise agrees with the model far more often than a greedy one.

Source: Daliri et al. 2024, "Coupling without communication and drafter-invariant speculative decoding"
(arXiv:2408.07978).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import NoScores
from .filters import adjusted, candidates
from .matcher import Matcher
from .noise import gumbel
from .params import SamplingParams


@dataclass(frozen=True)
class Draw:
    token_id: int
    p: float  # probability of the token under the distribution it was drawn from
    confidence: float  # 0 to 1, that another model, with the same noise, draws the same


@dataclass(frozen=True)
class Sampler:
    """Draws tokens of one sequence.

    Attributes:
        matcher: where the sequence stands in the grammar that it has to follow, if there is one.
    """

    params: SamplingParams
    matcher: Matcher | None = None

    def draw(self, logits_V: np.ndarray, position: int, history: Sequence[int]) -> Draw:
        """The token at `position`.

        Args:
            logits_V: float32 (V,).
            position: of the token to be drawn, counted from the start of the sequence.
            history: the tokens before it, at least the last `look_back` that there are, and those that the matcher
                has not been told to keep.

        Raises:
            NoScores: logits that are no numbers, or without end.
        """
        drawn = self.guess(logits_V, position, history)
        if math.isnan(drawn.p):
            raise NoScores(
                f"the model's scores of token {position} are no finite numbers: its file is damaged, or its values are "
                "too large for float32. Download or convert it again"
            )
        return drawn

    def guess(self, logits_V: np.ndarray, position: int, history: Sequence[int]) -> Draw:
        """The same for a draft: of logits that are no numbers some token, p and confidence NaN."""
        scores_V, allowed_V = adjusted(logits_V, self.params, history), self._allowed(position, history)
        best_score = _largest(scores_V, allowed_V)
        if allowed_V is not None and best_score == -math.inf:
            scores_V, best_score = logits_V, _largest(logits_V, allowed_V)  # a bias bans all: the grammar decides
        if not math.isfinite(best_score):
            return Draw(0 if allowed_V is None else int(np.argmax(allowed_V)), math.nan, math.nan)
        if self.params.temperature == 0:
            if allowed_V is not None:
                scores_V = np.where(allowed_V, scores_V, -np.inf)
            best = int(np.argmax(scores_V))
            p = float(1 / np.exp(scores_V - scores_V[best], dtype=np.float64).sum())
            return Draw(best, p, p)
        ids, log_p = candidates(scores_V, self.params, allowed_V)
        noisy = log_p + gumbel(self.params.seed, position, ids)
        best = int(np.argmax(noisy))
        return Draw(int(ids[best]), float(np.exp(log_p[best])), _lead(noisy, best))

    def _allowed(self, position: int, history: Sequence[int]) -> np.ndarray | None:
        if self.matcher is None:
            return None
        return self.matcher.allowed(history[len(history) - (position - self.matcher.position) :])


def _largest(scores_V: np.ndarray, allowed_V: np.ndarray | None) -> float:
    """The largest of the allowed scores; NaN if any of them is."""
    return float((scores_V if allowed_V is None else scores_V[allowed_V]).max())


def _lead(noisy: np.ndarray, best: int) -> float:
    """How far the best is ahead of the next: 0.5 where they are level, towards 1. Noise that both models have decides
    between tokens, so how probable the best was says little.
    """
    others = np.delete(noisy, best)
    return float(1 / (1 + np.exp(others.max() - noisy[best]))) if len(others) else 1.0
