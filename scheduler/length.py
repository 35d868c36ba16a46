"""How long a draft pays: expected tokens against what the seconds that they take would give otherwise.

    E_m = 1 + S_1 + ... + S_m    expected tokens of a step, S_j = chance that drafts 1..j are all accepted
    T_m                          its seconds

The m that maximizes E_m - price x T_m maximizes the rate of a run whose rate is the price; where the price is the
rate of the step itself, this is the rule "extend while S_{m+1} T_m > (T_{m+1} - T_m) E_m".
"""

from collections.abc import Sequence


def survivals(chances: Sequence[float]) -> list[float]:
    """S_1, S_2, ... from the chance of each draft given those before it."""
    out, survival = [], 1.0
    for chance in chances:
        survival *= chance
        out.append(survival)
    return out


def best_length(survival: Sequence[float], extra_s: Sequence[float], price: float) -> tuple[int, float]:
    """The best number of rows to verify, and the tokens that it gains over none.

    Args:
        survival: S_1, S_2, ...
        extra_s: seconds that each further row adds.
        price: tokens per second.
    """
    best, best_gain, gain = 0, 0.0, 0.0
    for j, (s, seconds) in enumerate(zip(survival, extra_s, strict=True), start=1):
        gain += s - price * seconds
        if gain > best_gain:
            best, best_gain = j, gain
    return best, best_gain


def outlook_gain(
    survival: float,
    outlook: Sequence[tuple[float, float]],
    later: Sequence[float],
    draft_s: Sequence[float],
    extra_s: Sequence[float],
    price: float,
    debt: float = 0.0,
) -> float:
    """Tokens that drafting one more token is expected to gain, when it may then be verified or not.

    The confidence of a token is known only after it was drafted. So its worth is the mean, over what it may turn out
    to be, of what it is worth then; and that is nothing where it does not pay: not to verify costs nothing.

    Args:
        survival: chance that all tokens drafted so far are accepted.
        outlook: (weight, chance) of the next token, the weights summing to 1.
        later: mean chances of the tokens behind it.
        draft_s: seconds to draft the next token and each behind it.
        extra_s: seconds to verify the next token and each behind it.
        price: tokens per second.
        debt: tokens that verifying all drafted so far loses against verifying the best number of them.
    """
    tails = [(0.0, 0.0)]  # expected tokens, for a survival of 1, and price of 0, 1, ... tokens behind the next one
    tokens, cost, s = 0.0, 0.0, 1.0
    for chance, drafting, verifying in zip(later, draft_s[1:], extra_s[1:], strict=False):
        s *= chance
        tokens += s
        cost += price * (drafting + verifying)
        tails.append((tokens, cost))
    gain = 0.0
    for weight, chance in outlook:
        s = survival * chance
        best_tail = max(s * tokens - cost for tokens, cost in tails)
        gain += weight * max(0.0, s - price * extra_s[0] + best_tail - debt)
    return gain - price * draft_s[0]
