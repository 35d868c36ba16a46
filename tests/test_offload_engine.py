"""Speculation never changes a token, nor a bit of the logits that tokens are drawn from."""

from typing import Any

import numpy as np
import pytest
from drafters import AlwaysRight, AlwaysWrong

import offload
from offload.costs import kv_bytes
from offload.drafting import NoDrafter
from offload.engine import Engine
from offload.errors import OptionError
from offload.sampling import Sampler, SamplingParams
from offload.sequence import Sequence
from offload.transformer.kv_cache import KvCache
from offload.transformer.rows import Rows
from scheduler import FixedLength

PROMPT = [5, 17, 200, 33, 5, 17, 200, 33, 5, 17]
TEMPERATURES = (0.0, 0.7, 1.2)
PENALTIES: dict[str, Any] = {"repetition_penalty": 1.3, "presence_penalty": 0.4, "frequency_penalty": 0.2}


def run(
    model: offload.LanguageModel, drafter: Any, draft: int, max_tokens: int = 40, **sampling: Any
) -> tuple[list[int], np.ndarray, int]:
    """Tokens, the logits (tokens, V) that each was drawn from, and how many drafts were accepted."""
    generation = model.generate(PROMPT, max_tokens=max_tokens, draft=draft, drafter=drafter, **sampling)
    engine, sequence = generation._engine, generation._sequence
    logits, accepted = [], 0
    while len(sequence.token_ids) < sequence.limit and sequence.token_ids[-1] not in sequence.stop_ids:
        (outcome,) = engine.step([sequence]).outcomes
        logits.append(outcome.logits[: len(outcome.draws)])
        accepted += outcome.accepted
    return sequence.token_ids[len(PROMPT) :], np.concatenate([x for x in logits if len(x)]), accepted


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("penalties", [{}, PENALTIES], ids=["plain", "penalties"])
def test_drafts_change_nothing(model: offload.LanguageModel, temperature: float, penalties: dict[str, Any]) -> None:
    sampling = {"temperature": temperature, "seed": 7, "top_p": 0.9, "min_p": 0.0, "top_k": 50, **penalties}
    plain, plain_logits, _ = run(model, "none", 0, **sampling)
    accepted_by = {}
    for draft in (1, 2, 3, 5):
        for drafter in ("mtp", "ngram", AlwaysRight(PROMPT, plain), AlwaysWrong(PROMPT, plain)):
            tokens, logits, accepted = run(model, drafter, draft, **sampling)
            assert tokens == plain
            assert np.array_equal(logits, plain_logits)
            accepted_by[type(drafter).__name__] = accepted
    assert accepted_by["AlwaysRight"] > 0 == accepted_by["AlwaysWrong"]


@pytest.mark.parametrize("cache_type", ["f16", "bf16", "q8_0"])
def test_drafts_change_nothing_with_rounded_caches(glm_path: Any, cache_type: str) -> None:
    """Keys and values are rounded row by row, so the caches of drafts hold the same bytes."""
    model = offload.load(glm_path, cache_type=cache_type, chunk_size=16)
    sampling = {"temperature": 0.7, "seed": 7, "min_p": 0.0}
    plain, plain_logits, _ = run(model, "none", 0, **sampling)
    for drafter in ("mtp", AlwaysRight(PROMPT, plain), AlwaysWrong(PROMPT, plain)):
        tokens, logits, _ = run(model, drafter, 3, **sampling)
        assert tokens == plain
        assert np.array_equal(logits, plain_logits)


def test_always_right_takes_the_fewest_steps(model: offload.LanguageModel) -> None:
    plain = model.generate(PROMPT, max_tokens=25, draft=0, temperature=0).finish()
    right = AlwaysRight(PROMPT, plain.tokens)
    result = model.generate(PROMPT, max_tokens=25, draft=3, drafter=right, temperature=0).finish()
    assert result.tokens == plain.tokens
    assert result.reuse.steps == 6  # the prompt's step gives one token, six of four the rest
    assert result.acceptance.by_position == [1.0, 1.0, 1.0]


def test_several_sequences_in_one_step_are_what_they_are_alone(glm_path: Any) -> None:
    """Rows of different sequences, lengths and phases share a step without touching each other."""
    model = offload.load(glm_path)
    prompts = [PROMPT, [1, 2, 3], list(range(40))]
    alone = [model.generate(p, max_tokens=12, draft=0, temperature=0).finish().tokens for p in prompts]

    trunk = _with_slots(model, 3)
    drafter = AlwaysRightForAll([[*p, *a] for p, a in zip(prompts, alone, strict=True)])
    engine = Engine(trunk, drafter, FixedLength(2), chunk_size=8)
    sampler = Sampler(SamplingParams(temperature=0))
    sequences = [
        Sequence(slot, list(p), len(p) + 12, sampler, model.tokenizer.end_of_generation)
        for slot, p in enumerate(prompts)
    ]
    for _ in range(40):
        running = [s for s, a in zip(sequences, alone, strict=True) if len(s.token_ids) < len(prompts[s.slot]) + len(a)]
        if not running:
            break
        engine.step(running)
    assert [s.token_ids[len(p) :] for s, p in zip(sequences, prompts, strict=True)] == alone


class AlwaysRightForAll(NoDrafter):
    """Drafts every sequence's future by its slot, but lies about the second token."""

    def __init__(self, futures: list[list[int]]):
        self.drafters = [AlwaysRight(future, []) for future in futures]

    def propose(self, sequences: Any, plan: Any) -> Any:
        drafts = [self.drafters[s.slot].draft(s.token_ids, n) for s, n in zip(sequences, plan.limits, strict=True)]
        for draft in drafts:
            if len(draft) > 1:
                draft.token_ids[1] ^= 1
        return drafts

    def observe(self, observations: Any) -> None:
        for drafter, o in ((self.drafters[o.sequence.slot], o) for o in observations):
            drafter.observe([o])


def _with_slots(model: offload.LanguageModel, num_slots: int) -> Any:
    from dataclasses import replace

    config = model.config
    cache = KvCache(config.num_layers, num_slots, config.num_kv_heads, 64, config.head_size, "f16")
    return replace(model.trunk, cache=cache)


def test_shared_prefix_is_reused_and_changes_nothing(glm_path: Any) -> None:
    """A prompt that begins like the last one starts behind the shared part, MTP cache included."""
    fresh, warm = offload.load(glm_path), offload.load(glm_path)
    first = warm.generate(PROMPT, max_tokens=20, draft=2, temperature=0).finish()
    longer = [*PROMPT, *first.tokens[:9], 3, 4]
    again = warm.generate(longer, max_tokens=20, draft=2, temperature=0).finish()
    expected = fresh.generate(longer, max_tokens=20, draft=2, temperature=0).finish()
    assert again.prompt_reused == len(PROMPT) + 8
    assert (again.tokens, again.acceptance.drafted, again.acceptance.accepted) == (
        expected.tokens,
        expected.acceptance.drafted,
        expected.acceptance.accepted,
    )


def test_bytes_read_count_each_expert_once(model: offload.LanguageModel) -> None:
    """A step's bytes are the dense weights, each distinct expert of each layer once, and what it saw of the cache."""
    model.logits([0])  # nothing of an earlier prompt may be reused
    generation = model.generate(PROMPT, max_tokens=10, draft=3, drafter="ngram", temperature=0)
    step = generation._engine.step([generation._sequence])
    tensors = model.checkpoint.tensors
    config = model.config

    def num_bytes(name: str) -> int:
        return tensors[name].num_bytes

    trunk = [n for n in tensors if not n.startswith(f"blk.{config.num_layers}.") and n != "token_embd.weight"]
    dense = sum(num_bytes(n) for n in trunk if len(tensors[n].shape) == 2)
    expert = 3 * config.hidden_size * config.expert_ffn_size * 4
    distinct = sum(len({int(e) for e in ids.ravel()}) for ids in step.expert_ids)
    cache = len(PROMPT) * config.num_layers * 2 * config.num_kv_heads * config.head_size * 4
    assert step.bytes_read == dense + distinct * expert + cache


@pytest.mark.parametrize(("cache_type", "bytes_of_32"), [("f32", 128), ("f16", 64), ("bf16", 64), ("q8_0", 34)])
def test_cache_bytes(model: offload.LanguageModel, cache_type: str, bytes_of_32: int) -> None:
    """What a step sees of a slot counts once, up to the furthest row."""
    config = model.config
    cache = KvCache(config.num_layers, 3, config.num_kv_heads, 40, config.head_size, cache_type)
    assert cache.bytes_per_token == 2 * config.num_layers * config.num_kv_heads * config.head_size // 32 * bytes_of_32
    assert cache.keys.nbytes + cache.values.nbytes == 3 * 64 * cache.bytes_per_token  # room for whole pairs of blocks
    rows = Rows.concat([Rows.consecutive(2, 5, [1, 2, 3]), Rows.consecutive(0, 0, [1])])
    assert kv_bytes(cache, rows) == (8 + 1) * cache.bytes_per_token


def test_caches_that_cannot_be_are_refused() -> None:
    with pytest.raises(OptionError, match="'q4_0' is unknown; choose one of f32, f16, bf16, q8_0"):
        KvCache(1, 1, 1, 32, 64, "q4_0")
    with pytest.raises(OptionError, match="multiples of 32, not 48: choose another cache type"):
        KvCache(1, 1, 1, 32, 48, "q8_0")


def test_generation_that_lost_its_cache_says_so(model: offload.LanguageModel) -> None:
    first = model.generate(PROMPT, max_tokens=10, draft=0, temperature=0)
    next(iter(first))
    model.generate([1, 2, 3], max_tokens=2, draft=0, temperature=0).finish()
    with pytest.raises(offload.MoeOffloadError, match="took over"):
        first.finish()
