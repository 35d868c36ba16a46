"""How long a draft pays: against the enumeration of every length, and of every rule that a run could follow."""

import itertools

import numpy as np
import pytest

from scheduler.batch import Candidate, RowPrice, choose_rows, loaded_share
from scheduler.length import best_length, outlook_gain, survivals
from scheduler.price import Price


def random_case(rng: np.random.Generator, most: int = 6) -> tuple[list[float], list[float], float]:
    """Survival, seconds of each further row (in any order of size), and seconds of a plain step."""
    survival = survivals(rng.uniform(0.2, 1.0, most).tolist())
    return survival, rng.uniform(0.02, 0.8, most).tolist(), 1.0


def best_rate(survival: list[float], extra_s: list[float], plain_s: float) -> tuple[int, float]:
    """The length of the highest tokens per second, by trying all."""
    rates = [(1 + sum(survival[:m])) / (plain_s + sum(extra_s[:m])) for m in range(len(survival) + 1)]
    return int(np.argmax(rates)), max(rates)


def test_survival_multiplies() -> None:
    assert survivals([0.9, 0.5, 0.5]) == pytest.approx([0.9, 0.45, 0.225])
    assert survivals([]) == []


def test_best_length_equals_enumeration() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        survival, extra_s, _ = random_case(rng)
        price = rng.uniform(0.5, 3)
        gains = [sum(survival[:m]) - price * sum(extra_s[:m]) for m in range(len(survival) + 1)]
        length, gain = best_length(survival, extra_s, price)
        assert (length, gain) == (int(np.argmax(gains)), pytest.approx(max(gains)))


def test_price_and_length_together_find_the_highest_rate() -> None:
    """Each step at the price that the last one set: ends at the length that enumeration finds, from any cost shape."""
    rng = np.random.default_rng(1)
    chosen = []
    for _ in range(300):
        survival, extra_s, plain_s = random_case(rng)
        price = 1 / plain_s
        for _ in range(10):
            length, _ = best_length(survival, extra_s, price)
            price = (1 + sum(survival[:length])) / (plain_s + sum(extra_s[:length]))
        assert price == pytest.approx(best_rate(survival, extra_s, plain_s)[1])
        chosen.append(length)
    assert set(chosen) >= {0, 1, 2, 3}


def test_where_returns_diminish_it_is_the_rule_of_one_more() -> None:
    """Extend while S_{m+1} T_m > (T_{m+1} - T_m) E_m."""
    rng = np.random.default_rng(2)
    for _ in range(200):
        survival, extra_s, plain_s = random_case(rng)
        order = np.argsort([-s / x for s, x in zip(survival, extra_s, strict=True)])
        survival, extra_s = [survival[i] for i in order], [extra_s[i] for i in order]
        m, tokens, seconds = 0, 1.0, plain_s
        while m < len(survival) and survival[m] * seconds > extra_s[m] * tokens:
            tokens, seconds, m = tokens + survival[m], seconds + extra_s[m], m + 1
        best, rate = best_rate(survival, extra_s, plain_s)
        assert m == best
        assert best_length(survival, extra_s, rate * (1 - 1e-12))[0] == best


def test_a_run_of_good_and_bad_steps_is_priced_as_a_whole() -> None:
    """Steps are easy or hard in turn. All pairs of lengths are tried; the policy's price finds the best pair."""
    easy, hard = survivals([0.95] * 6), survivals([0.45] * 6)
    extra_s, plain_s = [0.3, 0.35, 0.4, 0.5, 0.6, 0.7], 1.0

    def rate(lengths: tuple[int, int]) -> float:
        tokens = sum(1 + sum(s[:m]) for s, m in zip((easy, hard), lengths, strict=True))
        return tokens / sum(plain_s + sum(extra_s[:m]) for m in lengths)

    best = max(itertools.product(range(7), range(7)), key=rate)
    alone = tuple(best_rate(s, extra_s, plain_s)[0] for s in (easy, hard))
    price = Price()
    for _ in range(400):
        for survival in (easy, hard):
            m, _ = best_length(survival, extra_s, price.speedup / plain_s)
            seconds = plain_s + sum(extra_s[:m])
            price.observe(1 + sum(survival[:m]), seconds / plain_s)
    found = tuple(best_length(s, extra_s, price.speedup / plain_s)[0] for s in (easy, hard))
    assert found == best
    assert rate(best) > rate(alone)
    assert price.speedup == pytest.approx(rate(best), rel=1e-2)


def test_price_never_falls_below_plain_decoding() -> None:
    price = Price()
    assert price.speedup == 1.0
    for _ in range(1000):
        price.observe(1.0, 2.0)
    assert price.speedup == 1.0
    for _ in range(1000):
        price.observe(3.0, 2.0)
    assert price.speedup == pytest.approx(1.5, rel=0.01)


def test_outlook_gain_equals_enumeration() -> None:
    """Over every outcome of the next token and every length behind it."""
    rng = np.random.default_rng(3)
    positive = 0
    for _ in range(300):
        weights = rng.dirichlet(np.ones(3))
        outlook = list(zip(weights.tolist(), rng.uniform(0.1, 1, 3).tolist(), strict=True))
        num_later = int(rng.integers(0, 4))
        later = rng.uniform(0.2, 1, num_later).tolist()
        draft_s, extra_s = rng.uniform(0, 0.1, 1 + num_later).tolist(), rng.uniform(0.05, 0.6, 1 + num_later).tolist()
        reached, price, debt = rng.uniform(0.3, 1), rng.uniform(0.8, 2), rng.uniform(0, 0.1)
        expected = -price * draft_s[0]
        for weight, chance in outlook:
            worths = [0.0]
            for length in range(1, 2 + num_later):
                chain = [reached * s for s in survivals([chance, *later[: length - 1]])]
                seconds = sum(extra_s[:length]) + sum(draft_s[1:length])
                worths.append(sum(chain) - price * seconds - debt)
            expected += weight * max(worths)
        found = outlook_gain(reached, outlook, later, draft_s, extra_s, price, debt)
        assert found == pytest.approx(expected)
        positive += found > 0
    assert 50 < positive < 250


def exhaustive(candidates: list[Candidate], row: RowPrice, used_share: float, price: float) -> float:
    """The highest gain over all vectors of lengths; rows in the order of sequences, costs as an order-free union."""
    best = 0.0
    for lengths in itertools.product(*(range(len(c.survival) + 1) for c in candidates)):
        tokens = sum(sum(c.survival[:m]) for c, m in zip(candidates, lengths, strict=True))
        unloaded = [1 - c.loaded for c in candidates]
        full = [1 - c.loaded - used_share * sum(c.new_shares[:m]) for c, m in zip(candidates, lengths, strict=True)]
        added = (np.prod(unloaded) - np.prod(full)) / used_share
        best = max(best, tokens - price * (sum(lengths) * row.row_s + added * row.new_experts_s))
    return best


@pytest.mark.parametrize("num_sequences", [1, 2, 4])
def test_rows_chosen_over_sequences_against_all_choices(num_sequences: int) -> None:
    """One sequence: exactly the best. Several: the greedy order misses little of the best, and never loses."""
    rng = np.random.default_rng(num_sequences)
    used_share, found, optimum = 0.05, 0.0, 0.0
    for _ in range(150):
        candidates = []
        for _ in range(num_sequences):
            length = int(rng.integers(0, 4))
            survival = survivals(rng.uniform(0.2, 1, length).tolist())
            shares = rng.uniform(0.3, 1, length).tolist()
            candidates.append(Candidate(survival, shares, used_share))
        row, price = RowPrice(rng.uniform(0.02, 0.2), rng.uniform(0.2, 1.0)), rng.uniform(0.7, 2)
        choice = choose_rows(candidates, row, used_share, price)
        best = exhaustive(candidates, row, used_share, price)
        assert 0 <= choice.gain <= best + 1e-9
        assert all(m <= len(c.survival) for m, c in zip(choice.lengths, candidates, strict=True))
        found, optimum = found + choice.gain, optimum + best
        if num_sequences == 1:
            assert choice.gain == pytest.approx(best)
    assert found >= 0.99 * optimum > 0


def test_experts_that_a_long_prompt_loads_make_drafts_cheap() -> None:
    row, used_share = RowPrice(0.05, 1.0), 0.05
    draft = Candidate([0.4], [0.9], used_share)
    prompt = Candidate([], [], loaded_share(400, used_share))
    assert choose_rows([draft], row, used_share, 1.0).lengths == [0]
    assert choose_rows([draft, prompt], row, used_share, 1.0).lengths == [1, 0]
