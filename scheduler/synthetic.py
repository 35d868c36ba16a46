"""Traces with a chosen character: acceptance, how it varies, how sure the drafter is of itself, how experts overlap.

Shapes: N tokens, M drafts, L layers, E experts, K experts per row.
"""

from dataclasses import dataclass

import numpy as np

from .trace import Trace

VOCABULARY = 1 << 16
WRONG = VOCABULARY  # added to a token to make another one


@dataclass(frozen=True)
class Character:
    """What a synthetic text is like."""

    acceptance: float  # mean chance that a draft is right, given that those before it are
    overlap: float  # share of a row's experts that the row before used
    variation: float = 0.0  # standard deviation of the log-odds of acceptance from token to token
    persistence: float = 0.5  # correlation of neighbouring tokens' log-odds
    blur: float = 0.5  # standard deviation of the drafter's error about its own log-odds
    overlap_variation: float = 0.0  # standard deviation of the overlap's log-odds, common to the layers of a row

    def __post_init__(self) -> None:
        for name in ("acceptance", "overlap"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie between 0 and 1")


def synthetic_trace(
    character: Character, num_tokens: int, num_drafts: int, num_layers: int, num_experts: int, num_used: int, seed: int
) -> Trace:
    rng = np.random.default_rng(seed)
    N, M, L, K = num_tokens, num_drafts, num_layers, num_used
    token_ids_N = rng.integers(0, VOCABULARY, N, dtype=np.int32)
    odds_N = _log_odds(character, N + M + 1, rng)
    ahead_NM = np.arange(N)[:, None] + 1 + np.arange(M)
    right_NM = rng.random((N, M)) < _sigmoid(odds_N[ahead_NM])
    p_NM = _sigmoid(odds_N[ahead_NM] + character.blur * rng.standard_normal((N, M)))
    padded = np.concatenate([token_ids_N, rng.integers(0, VOCABULARY, M + 1, dtype=np.int32)])
    draft_ids_NM = np.where(right_NM, padded[ahead_NM], padded[ahead_NM] + WRONG).astype(np.int32)

    router = _Router(character, L, num_experts, K, rng)
    text = np.empty((N + M + 1, L, K), np.int16)
    text[0] = router.anything()
    for n in range(1, N + M + 1):
        text[n] = router.after(text[n - 1])
    drafted = np.empty((N, M, L, K), np.int16)
    for n in range(N):
        row, on_text = text[n], True
        for j in range(M):
            on_text = on_text and bool(right_NM[n, j])
            row = text[n + 1 + j] if on_text else router.after(row)
            drafted[n, j] = row
    none = np.zeros((N, 0, K), np.int16)
    return Trace(num_experts, token_ids_N, text[:N], draft_ids_NM, p_NM.astype(np.float32), drafted, none)


class _Router:
    def __init__(self, character: Character, L: int, E: int, K: int, rng: np.random.Generator):
        self.character, self.L, self.E, self.K, self.rng = character, L, E, K, rng

    def anything(self) -> np.ndarray:
        return np.argsort(self.rng.random((self.L, self.E), np.float32), axis=1)[:, : self.K]

    def after(self, before_LK: np.ndarray) -> np.ndarray:
        """Experts of the next row: each of the row before stays with the overlap's chance, others take the rest."""
        c, L, K = self.character, self.L, self.K
        odds = _logit(c.overlap) + c.overlap_variation * self.rng.standard_normal()
        keys_LE = self.rng.random((L, self.E), np.float32)
        layers_L1 = np.arange(L)[:, None]
        stays_LK = self.rng.random((L, K)) < _sigmoid(odds)
        keys_LE[layers_L1, before_LK] = np.where(stays_LK, -1.0, 2.0)  # first of all, or last
        return np.argpartition(keys_LE, K - 1, axis=1)[:, :K]


def _log_odds(character: Character, num: int, rng: np.random.Generator) -> np.ndarray:
    """A stationary sequence whose mean chance is the acceptance."""
    noise, keep = rng.standard_normal(num), character.persistence
    z = np.empty(num)
    z[0] = noise[0]
    for n in range(1, num):
        z[n] = keep * z[n - 1] + np.sqrt(1 - keep**2) * noise[n]
    spread = character.variation * rng.standard_normal(20000)
    low, high = -12.0, 12.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if _sigmoid(middle + spread).mean() < character.acceptance else (low, middle)
    return low + character.variation * z


def _sigmoid(x: np.ndarray | float) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-np.asarray(x, float))))


def _logit(p: float) -> float:
    return float(np.log(p / (1 - p)))
