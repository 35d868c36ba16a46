"""Filters against naive loops, noise against known answers, the distribution of what is drawn, log-probabilities."""

import math
from typing import Any

import numpy as np
import pytest

import offload
from offload.errors import OptionError
from offload.sampling import Sampler, SamplingParams
from offload.sampling.filters import COLUMNS, adjusted, candidates
from offload.sampling.noise import gumbel, philox

OPEN: dict[str, Any] = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}


def naive_distribution(logits: list[float], params: SamplingParams) -> dict[int, float]:
    """Token -> probability after top-k, top-p, min-p and temperature, one at a time, in plain Python."""
    ranked = sorted(range(len(logits)), key=lambda i: (-logits[i], i))
    if params.top_k:
        ranked = ranked[: params.top_k]
    weights = [math.exp(logits[i] - logits[ranked[0]]) for i in ranked]
    if params.top_p < 1:
        total, running, kept = sum(weights), 0.0, 0
        while running < params.top_p * total and kept < len(ranked):
            running += weights[kept]
            kept += 1
        ranked, weights = ranked[: max(1, kept)], weights[: max(1, kept)]
    ranked = [i for i, w in zip(ranked, weights, strict=True) if w >= params.min_p * weights[0]]
    weights = [math.exp((logits[i] - logits[ranked[0]]) / params.temperature) for i in ranked]
    return {i: w / sum(weights) for i, w in zip(ranked, weights, strict=True)}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"top_k": 1},
        {"top_k": 7},
        {"top_p": 0.5},
        {"top_p": 0.95, "temperature": 0.3},
        {"top_p": 0.0},
        {"min_p": 0.1},
        {"min_p": 1.0},
        {"top_k": 20, "top_p": 0.9, "min_p": 0.05, "temperature": 1.7},
    ],
)
@pytest.mark.parametrize("num_tokens", [1, 2, 50, 1000])
def test_filters_equal_naive_loops(settings: dict[str, Any], num_tokens: int) -> None:
    params = SamplingParams(**{**OPEN, **settings})
    for seed in range(5):
        logits = (np.random.default_rng(seed).standard_normal(num_tokens) * 3).astype(np.float32)
        ids, log_p = candidates(logits, params)
        expected = naive_distribution([float(x) for x in logits], params)
        assert sorted(expected) == ids.tolist()
        assert np.exp(log_p) == pytest.approx([expected[i] for i in ids], rel=1e-9)


def test_ties_go_to_the_lower_id() -> None:
    logits = np.zeros(10, np.float32)
    assert candidates(logits, SamplingParams(**{**OPEN, "top_k": 3}))[0].tolist() == [0, 1, 2]
    assert candidates(logits, SamplingParams(**{**OPEN, "top_p": 0.35}))[0].tolist() == [0, 1, 2, 3]
    assert Sampler(SamplingParams(temperature=0)).draw(logits, 5, []).token_id == 0


@pytest.mark.parametrize("num_tokens", [1, 40, COLUMNS, COLUMNS + 1, 5 * COLUMNS - 1, 5 * COLUMNS])
@pytest.mark.parametrize("top_k", [1, 39, 40, COLUMNS, COLUMNS + 1])
@pytest.mark.parametrize("distinct", [3, 1000, 1 << 20])
def test_top_k_is_what_sorting_leaves(num_tokens: int, top_k: int, distinct: int) -> None:
    rng = np.random.default_rng(top_k)
    logits_V = rng.integers(0, distinct, num_tokens).astype(np.float32)
    ids, _ = candidates(logits_V, SamplingParams(**OPEN | {"top_k": top_k}))
    best = np.argsort(-logits_V, kind="stable")[:top_k]
    assert ids.tolist() == sorted(best.tolist())


def test_penalties_and_bias() -> None:
    logits = np.array([2.0, -2.0, 1.0, 0.5, 3.0], np.float32)
    history = [4, 4, 0, 1, 0, 0]
    params = SamplingParams(
        repetition_penalty=2.0, presence_penalty=0.5, frequency_penalty=0.25, penalty_last_n=4, logit_bias={2: 10.0}
    )
    # the last four are 0, 1, 0, 0; token 4 lies further back
    expected = [2.0 / 2 - 0.5 - 3 * 0.25, -2.0 * 2 - 0.5 - 0.25, 11.0, 0.5, 3.0]
    assert adjusted(logits, params, history).tolist() == expected
    assert logits.tolist() == [2.0, -2.0, 1.0, 0.5, 3.0]
    banned = SamplingParams(temperature=0, logit_bias={4: -math.inf})
    assert Sampler(banned).draw(logits, 0, []).token_id == 0


def test_philox_known_answers() -> None:
    """The vectors that the authors publish with Random123."""
    answers = {
        (0,) * 6: (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
        (0xFFFFFFFF,) * 6: (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344, 0xA4093822, 0x299F31D0): (
            0xD16CFE09,
            0x94FDCCEB,
            0x5001E420,
            0x24126EA1,
        ),
    }
    for words, expected in answers.items():
        assert tuple(int(word) for word in philox(*(np.uint64(word) for word in words))) == expected


def test_noise_depends_on_seed_position_and_token_alone() -> None:
    ids = np.array([3, 5, 8], np.int64)
    assert gumbel(1, 2, ids)[1:].tolist() == gumbel(1, 2, ids[1:]).tolist()
    assert len({gumbel(s, p, ids)[0] for s in (0, 1, 1 << 40) for p in (0, 1, 1 << 33)}) == 9


def test_noise_has_gumbel_moments() -> None:
    """Mean 0.5772 and variance pi^2 / 6; five standard errors, so a false alarm is below one in a million."""
    draws = np.concatenate([gumbel(7, position, np.arange(1000)) for position in range(200)])
    assert abs(draws.mean() - 0.5772156649) < 5 * math.sqrt(math.pi**2 / 6 / len(draws))
    assert abs(draws.var() - math.pi**2 / 6) < 5 * math.sqrt(4.4 * (math.pi**2 / 6) ** 2 / len(draws))


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.6}, {"temperature": 2.0, "top_k": 5}, {"top_p": 0.8}])
def test_draws_follow_the_distribution(settings: dict[str, Any]) -> None:
    """Chi-square over many positions; a false alarm has probability 1e-7."""
    params = SamplingParams(**{**OPEN, "seed": 11, **settings})
    logits = np.array([1.5, 0.2, -0.3, 2.0, 0.0, -1.0, 0.7, 0.9, -0.5], np.float32)
    expected = naive_distribution([float(x) for x in logits], params)
    sampler, num_draws = Sampler(params), 20_000
    counts = np.bincount([sampler.draw(logits, p, []).token_id for p in range(num_draws)], minlength=len(logits))
    assert counts[[i for i in range(len(logits)) if i not in expected]].sum() == 0
    chi_square = sum((counts[i] - num_draws * p) ** 2 / (num_draws * p) for i, p in expected.items())
    assert _chi_square_tail(chi_square, len(expected) - 1) > 1e-7


def _chi_square_tail(x: float, freedom: int) -> float:
    """P(chi-square > x), by the recurrence in steps of two degrees of freedom."""
    if freedom <= 0:
        return 1.0
    tail = math.erfc(math.sqrt(x / 2)) if freedom % 2 else math.exp(-x / 2)
    for f in range(2 - freedom % 2, freedom, 2):
        tail += (x / 2) ** (f / 2) * math.exp(-x / 2) / math.gamma(f / 2 + 1)
    return tail


def test_coupled_draws_agree_more_than_independent_ones() -> None:
    """Two close distributions with the same noise: far closer to the optimum 1 - distance than independent draws."""
    rng = np.random.default_rng(3)
    agreed, optimum, independent = 0, 0.0, 0.0
    sampler = Sampler(SamplingParams(**OPEN))
    for position in range(2000):
        target = rng.standard_normal(50).astype(np.float32) * 2
        draft = target + rng.standard_normal(50).astype(np.float32) * 0.5
        agreed += sampler.draw(target, position, []).token_id == sampler.draw(draft, position, []).token_id
        target_p, draft_p = (np.exp(x - x.max()) / np.exp(x - x.max()).sum() for x in (target, draft))
        optimum += np.minimum(target_p, draft_p).sum()
        independent += (target_p * draft_p).sum()
    assert agreed / 2000 > 0.85 * optimum / 2000 > 2 * independent / 2000


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("top_k", -1),
        ("top_p", 1.1),
        ("min_p", -0.5),
        ("repetition_penalty", 0.0),
        ("seed", -1),
        ("seed", 1 << 64),
    ],
)
def test_illegal_values_are_named(name: str, value: float) -> None:
    with pytest.raises(OptionError, match=rf"{name} is .*legal range"):
        SamplingParams(**{name: value})


@pytest.mark.parametrize("num_top", [0, 1, 5, 10_000])
def test_logprobs_are_the_models_own(model: offload.LanguageModel, num_top: int) -> None:
    """Before bias, penalties, filters and temperature; the same with drafts and without; none unless asked for."""
    settings: dict[str, Any] = {"seed": 3, "temperature": 1.3, "top_k": 9, "repetition_penalty": 1.3, "max_tokens": 8}
    events = list(model.generate("in the", logprobs=num_top, draft=0, **settings))
    tokens = [event.token_id for event in events if event.token_id is not None]
    prompt = model.tokenizer.encode("in the")
    raw = model.logits([*prompt, *tokens])[len(prompt) - 1 : -1].astype(np.float64)
    for event, logits in zip((e for e in events if e.token_id is not None), raw, strict=True):
        assert event.logprobs is not None
        naive = [float(x - np.log(np.exp(logits).sum())) for x in logits]
        assert event.logprobs.token == pytest.approx(naive[event.token_id])
        best = sorted(range(len(naive)), key=lambda i: (-logits[i], i))[:num_top]
        assert [token_id for token_id, _ in event.logprobs.top] == best
        assert [value for _, value in event.logprobs.top] == pytest.approx([naive[i] for i in best])
    drafted = list(model.generate("in the", logprobs=num_top, draft=3, **settings))
    assert [e.logprobs for e in drafted] == [e.logprobs for e in events]
    assert all(e.logprobs is None for e in model.generate("in the", **settings))


def test_the_coldest_temperature_takes_the_best() -> None:
    logits = np.float32([1e38, -1e38, 2e38, 0.0])
    for temperature in (5e-324, 1e-300, 1e-45):
        assert Sampler(SamplingParams(temperature=temperature, top_p=1.0, min_p=0.0)).draw(logits, 0, []).token_id == 2
