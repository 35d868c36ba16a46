"""Log-probabilities as OpenAI's API reports them: of the model's distribution, before bias, filters and temperature."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Logprobs:
    """Natural logarithms, of one position."""

    token: float  # of the token that was drawn
    top: list[tuple[int, float]]  # the most probable tokens, best first; ties go to the lower id


def logprobs(logits_V: np.ndarray, token_id: int, num_top: int) -> Logprobs:
    """Those of `token_id` and of the `num_top` best tokens, from float32 (V,)."""
    values = logits_V.astype(np.float64)
    best = values.max()
    log_sum = best + np.log(np.exp(values - best).sum())
    top = _largest(values, min(num_top, len(values)))
    return Logprobs(float(values[token_id] - log_sum), [(int(i), float(values[i] - log_sum)) for i in top])


def _largest(values: np.ndarray, num: int) -> np.ndarray:
    """Indices of the `num` largest values, largest first."""
    if num == 0:
        return np.empty(0, np.int64)
    ids = np.flatnonzero(values >= np.partition(values, -num)[-num])
    return ids[np.argsort(-values[ids], kind="stable")][:num]
