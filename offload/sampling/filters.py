"""Which tokens may be drawn, and with which probability: bias, penalties, grammar, top-k, top-p, min-p, temperature.

Shapes: V vocabulary, N candidates.
"""

from collections.abc import Sequence

import numpy as np

from .params import SamplingParams

COLDEST = 1e-200  # temperature: differences of float32 divided by it are numbers
COLUMNS = 1024  # of scores, whose maxima are looked at first


def adjusted(logits_V: np.ndarray, params: SamplingParams, history: Sequence[int]) -> np.ndarray:
    """Logits with bias and penalties applied; the input itself where there are none.

    Args:
        history: the tokens before this one, at least the last `look_back` that there are.
    """
    recent = history[-params.look_back :] if params.look_back else ()
    if not params.logit_bias and not recent:
        return logits_V
    logits_V = logits_V.copy()
    for token_id, bias in params.logit_bias.items():
        logits_V[token_id] += np.float32(bias)
    if recent:
        seen, counts = np.unique(np.asarray(recent), return_counts=True)
        values = logits_V[seen].astype(np.float64)
        values = np.where(values > 0, values / params.repetition_penalty, values * params.repetition_penalty)
        logits_V[seen] = values - counts * params.frequency_penalty - params.presence_penalty
    return logits_V


def candidates(
    logits_V: np.ndarray, params: SamplingParams, allowed_V: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens that survive the filters, and their log-probabilities at the temperature (which is above 0).

    Args:
        allowed_V: bool, what a grammar leaves to the filters; all if None.

    Returns:
        int64 (N,) token ids in ascending order and float64 (N,); at least one.
    """
    ids = None if allowed_V is None else np.flatnonzero(allowed_V)
    values = logits_V if ids is None else logits_V[ids]
    if 0 < params.top_k < len(values):
        keep = _largest(values, params.top_k)
        if len(keep) > params.top_k:  # ties at the border: the lower ids stay
            keep = np.sort(keep[np.argsort(-values[keep], kind="stable")[: params.top_k]])
        ids, values = keep if ids is None else ids[keep], values[keep]
    if ids is None:
        ids = np.arange(len(values))
    values = values.astype(np.float64)
    if params.top_p < 1:
        keep = _nucleus(_softmax(values), params.top_p)
        ids, values = ids[keep], values[keep]
    if params.min_p > 0:
        keep = values >= values.max() + np.log(params.min_p)
        ids, values = ids[keep], values[keep]
    scaled = (values - values.max()) / max(params.temperature, COLDEST)
    return ids, scaled - np.log(np.exp(scaled).sum())


def _largest(values: np.ndarray, num: int) -> np.ndarray:
    """Indices, ascending, of the `num` largest values, and of all that equal the least of them."""
    whole = len(values) // COLUMNS * COLUMNS
    maxima = values[:whole].reshape(-1, COLUMNS).max(axis=0) if num <= COLUMNS < whole else values
    bound = np.partition(maxima, -num)[-num]  # at least so many values are as large: one in each of as many columns
    among = np.flatnonzero(values >= bound)
    largest: np.ndarray = among[values[among] >= np.partition(values[among], -num)[-num]]
    return largest


def _nucleus(p_N: np.ndarray, top_p: float) -> np.ndarray:
    """Indices, ascending, of the most probable tokens whose sum first reaches top_p."""
    # tokens of at most (1 - top_p) / N weigh less than 1 - top_p together, so the nucleus lies within the others
    likely = np.flatnonzero(p_N > (1 - top_p) / len(p_N))
    if len(likely) == 0:
        likely = np.array([np.argmax(p_N)])
    order = likely[np.argsort(-p_N[likely], kind="stable")]
    num = int(np.searchsorted(np.cumsum(p_N[order]), top_p)) + 1
    return np.sort(order[:num])


def _softmax(values: np.ndarray) -> np.ndarray:
    p: np.ndarray = np.exp(values - values.max())
    p /= p.sum()
    return p
