"""MTP over compressed keys and values against transformers, what its cache costs, and files that cannot be run."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from glm_files import VOCAB_SIZE
from moe_files import RandomModel, random_deepseek2, random_deepseek3, random_glm_flash

import offload
from offload.errors import CheckpointError, UnsupportedModel
from offload.transformer.rows import Rows
from scheduler import FixedPlan


@pytest.fixture(scope="module", params=[random_deepseek3, random_glm_flash])
def random_model(request: pytest.FixtureRequest) -> RandomModel:
    return request.param()


@pytest.fixture(scope="module")
def path(random_model: RandomModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_model.file.write(tmp_path_factory.mktemp("models") / "model.gguf")


@pytest.fixture(scope="module")
def tokens() -> np.ndarray:
    return np.random.default_rng(1).integers(0, VOCAB_SIZE, 40)


def naive_states(random_model: RandomModel, token_ids: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    """g of every pair (x_p, state before it), by transformers' layers without any cache: (pairs, D)."""
    mtp: Any = random_model.mtp
    with torch.no_grad():
        num = len(token_ids)
        mask = torch.full((num, num), float("-inf")).triu(1)[None, None]
        positions = torch.arange(num)[None]
        embedded = mtp.embed_tokens(token_ids)[None]
        rope = mtp.rotary_emb(embedded, position_ids=positions)
        result: torch.Tensor = mtp.layers[0](embedded, states[None], rope, mask, positions, None)[0]
        return result


def test_states_equal_transformers(path: Path, random_model: RandomModel, tokens: np.ndarray) -> None:
    """Filled pair by pair and in batches, finished all at once."""
    model = offload.load(path, cache_type="f32")
    assert model.mtp is not None
    with torch.no_grad():
        states = random_model.trunk.model(torch.from_numpy(tokens)[None]).last_hidden_state[0]
    expected = naive_states(random_model, torch.from_numpy(tokens[1:]), states[:-1]).numpy()
    pairs, before = Rows.consecutive(0, 0, tokens[1:].tolist()), states[:-1].numpy()
    parts = [slice(0, 1), slice(1, 2), slice(2, 20), slice(20, None)]
    filled = np.concatenate([model.mtp.fill(pairs[part], before[part]) for part in parts])
    g_TD, _, _ = model.mtp.finish(pairs, filled)
    assert np.abs(g_TD - expected).max() < 2e-5


def test_drafts_equal_transformers(path: Path, random_model: RandomModel, tokens: np.ndarray) -> None:
    """Four greedy drafts behind a prompt: later ones take g of the pair before."""
    model, prompt = offload.load(path, cache_type="f32", chunk_size=7), tokens[:25]
    generation = model.generate(prompt.tolist(), max_tokens=6, draft=4, temperature=0)
    engine, sequence = generation._engine, generation._sequence
    while len(sequence.token_ids) == len(prompt):
        engine.step([sequence])
    (draft,) = engine.drafter.propose([sequence], FixedPlan([4]))
    with torch.no_grad():
        states = random_model.trunk.model(torch.from_numpy(prompt)[None]).last_hidden_state[0]
    pair_tokens, expected = [*prompt[1:].tolist(), sequence.token_ids[-1]], list[int]()
    for _ in range(4):
        g = naive_states(random_model, torch.tensor(pair_tokens), states)
        with torch.no_grad():
            expected.append(int(random_model.trunk.lm_head(g[-1]).argmax()))
        pair_tokens.append(expected[-1])
        states = torch.cat([states, g[-1:]])
    assert draft.token_ids == expected


@pytest.mark.parametrize("device", ["cpu", "emulated"])
def test_the_cache_holds_one_row_a_token_and_layer(path: Path, device: str) -> None:
    model = offload.load(path, cache_type="f16", device=device, check_backends=True)
    assert model.trunk.cache.bytes_per_token == 3 * (48 + 16) * 2
    assert model.mtp is not None
    assert model.mtp.cache.bytes_per_token == (48 + 16) * 2
    result = model.generate([1, 2, 3], max_tokens=8, draft=2, temperature=0).finish()
    assert result.acceptance.drafted > 0
    assert result.bytes_crossed["mtp", "down"] == result.bytes_crossed["mtp", "up"] == 0


def test_both_devices_draft_and_write_the_same(path: Path) -> None:
    results = [
        offload.load(path, cache_type="f32", device=device).generate([7, 8, 9], max_tokens=20, draft=3, temperature=0)
        for device in ("cpu", "emulated")
    ]
    (tokens, drafted), (other_tokens, other_drafted) = (
        (r.tokens, r.acceptance.by_position) for r in (result.finish() for result in results)
    )
    assert tokens == other_tokens
    assert drafted == other_drafted


def test_on_a_device_a_row_is_the_same_in_any_company(path: Path) -> None:
    """Chunks of any size, to the bit."""
    token_ids = np.arange(18)
    whole, *others = (
        offload.load(path, cache_type="f16", device="emulated", chunk_size=size).logits(token_ids)
        for size in (18, 1, 5)
    )
    for other in others:
        assert np.array_equal(other, whole)


@pytest.mark.parametrize(
    ("key", "value", "error", "message"),
    [
        ("attention.key_length_mla", None, UnsupportedModel, r"key_length_mla is missing.*attn_kv_b.*again"),
        ("attention.key_length", 60, CheckpointError, r"key_length is 60; .*= 48 \+ 16"),
        ("attention.head_count_kv", 2, UnsupportedModel, "head_count_kv must be 1"),
        ("rope.scaling.type", "longrope", UnsupportedModel, "'longrope'; none and yarn"),
        ("expert_group_used_count", 5, CheckpointError, r"group_used_count is 5.*0\.\.4"),
    ],
)
def test_files_that_cannot_be_run_are_named(
    tmp_path: Path, key: str, value: object, error: type[Exception], message: str
) -> None:
    file = random_deepseek2().file
    if value is None:
        del file.metadata[f"deepseek2.{key}"]
    else:
        file.metadata[f"deepseek2.{key}"] = value
    with pytest.raises(error, match=message):
        offload.load(file.write(tmp_path / "model.gguf"))


def test_an_mtp_block_of_another_kind_is_left_out_and_named(random_model: RandomModel, tmp_path: Path) -> None:
    """It runs without drafting, and writes the same."""
    file = random_model.file
    known = offload.load(file.write(tmp_path / "known.gguf"))
    other = replace(file, tensors={**file.tensors, "blk.3.nextn.gate.weight": np.zeros(4, np.float32)})
    with pytest.warns(UserWarning, match=r"no MTP drafts: tensor blk\.3\.nextn\.gate\.weight is of an unknown kind"):
        model = offload.load(other.write(tmp_path / "other.gguf"))
    assert model.mtp is None
    expected = known.generate([1, 2, 3], max_tokens=8, draft=2, temperature=0).finish().tokens
    assert model.generate([1, 2, 3], max_tokens=8, draft=0, temperature=0).finish().tokens == expected


def test_roles(path: Path) -> None:
    """Every tensor has one, and the routed experts alone stay on the host."""
    from offload.checkpoints.gguf import open_gguf
    from offload.transformer.arch import role_of
    from offload.transformer.config import config_of

    checkpoint = open_gguf(path)
    config = config_of(checkpoint)
    roles = {name: role_of(name, config) for name in checkpoint.tensors}
    assert set(roles.values()) == {"attention", "dense", "router", "experts", "shared", "mtp", "embedding", "head"}
    assert {n for n, r in roles.items() if r == "experts"} == {
        f"blk.{b}.ffn_{part}_exps.weight" for b in (1, 2) for part in ("gate", "up", "down")
    }
