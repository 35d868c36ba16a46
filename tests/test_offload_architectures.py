"""Architectures beside GLM's: against transformers and llama.cpp; drafts change nothing with them either."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from drafters import AlwaysRight, AlwaysWrong
from glm_files import VOCAB_SIZE
from hf_files import write_tokenizer
from llama_cpp import continued, server_of
from moe_files import RandomModel, random_deepseek2, random_deepseek3, random_glm_flash, random_qwen3moe

import offload
from offload.transformer.kv_cache import CACHE_TYPES

MODELS: dict[str, Callable[[], RandomModel]] = {
    "qwen3moe": random_qwen3moe,
    "deepseek3": random_deepseek3,
    "glm-flash": random_glm_flash,
    "deepseek2": random_deepseek2,
}


@pytest.fixture(scope="module", params=MODELS)
def random_model(request: pytest.FixtureRequest) -> RandomModel:
    return MODELS[request.param]()


@pytest.fixture(scope="module")
def path(random_model: RandomModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_model.file.write(tmp_path_factory.mktemp("models") / "model.gguf")


def tokens(num: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, VOCAB_SIZE, num)


def log_probabilities(logits: np.ndarray) -> torch.Tensor:
    return torch.log_softmax(torch.from_numpy(logits).double(), dim=-1)


@pytest.mark.parametrize("device", ["cpu", "emulated"])
def test_log_probabilities_equal_transformers(random_model: RandomModel, path: Path, device: str) -> None:
    model = offload.load(path, cache_type="f32", chunk_size=7, device=device, check_backends=True)
    token_ids = tokens(60)
    with torch.no_grad():
        expected = random_model.trunk(torch.from_numpy(token_ids)[None]).logits[0].numpy()
    difference = (log_probabilities(model.logits(token_ids)) - log_probabilities(expected)).abs().max()
    assert difference <= 3e-5


def test_a_folder_of_hugging_face_gives_the_same(tmp_path: Path) -> None:
    """Qwen3-MoE as transformers saves it."""
    random = random_qwen3moe()
    folder = tmp_path / "qwen"
    random.trunk.save_pretrained(folder)
    write_tokenizer(folder, random.file.tokens, random.file.token_types, ["t h", "i n"], None)
    expected = offload.load(random.file.write(tmp_path / "qwen.gguf"), cache_type="f32")
    model = offload.load(folder, cache_type="f32")
    assert replace(model.config, norm_eps=expected.config.norm_eps) == expected.config  # a float32 in GGUF
    assert np.array_equal(model.logits(tokens(40)), expected.logits(tokens(40)))


@pytest.mark.parametrize("cache_type", CACHE_TYPES)
def test_chunks_change_no_bit(path: Path, cache_type: str) -> None:
    token_ids = tokens(50)
    whole = offload.load(path, cache_type=cache_type).logits(token_ids)
    for chunk_size in (1, 3, 8, 49):
        assert np.array_equal(offload.load(path, cache_type=cache_type, chunk_size=chunk_size).logits(token_ids), whole)


@pytest.mark.filterwarnings("ignore:this model has no usable MTP block")
def test_drafts_change_nothing(path: Path) -> None:
    """Tokens, and bit by bit the logits that each was drawn from."""
    model, prompt = offload.load(path), [5, 17, 200, 33, 5, 17, 200, 33, 5, 17]
    for sampling in ({"temperature": 0.0}, {"temperature": 0.9, "seed": 3, "top_p": 0.9}):
        plain, plain_logits = generated(model, prompt, "none", 0, sampling)
        named = ["ngram", "auto"] + (["mtp"] if model.mtp else [])
        for drafter in (*named, AlwaysRight(prompt, plain), AlwaysWrong(prompt, plain)):
            for length in (1, 3, "auto"):
                drafted, logits = generated(model, prompt, drafter, length, sampling)
                assert drafted == plain
                assert np.array_equal(logits, plain_logits)


def generated(
    model: offload.LanguageModel, prompt: list[int], drafter: object, draft: int | str, sampling: dict[str, float]
) -> tuple[list[int], np.ndarray]:
    generation = model.generate(prompt, max_tokens=25, draft=draft, drafter=drafter, **sampling)  # type: ignore[arg-type]
    engine, sequence, logits = generation._engine, generation._sequence, []
    while len(sequence.token_ids) < sequence.limit and sequence.token_ids[-1] not in sequence.stop_ids:
        (outcome,) = engine.step([sequence]).outcomes
        logits.append(outcome.logits[: len(outcome.draws)])
    return sequence.token_ids[len(prompt) :], np.concatenate([x for x in logits if len(x)])


def test_greedy_tokens_equal_llama_cpp(path: Path, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Until a near tie, if there is one. It tells plain queries by 27 layers, and has no groups of softmax scores."""
    if "deepseek2" in request.node.callspec.id:
        path = random_deepseek2(layers=27, groups=1).file.write(tmp_path / "lite.gguf")
    server = server_of(path, context=256)
    model = offload.load(path, cache_type="f32")
    never = dict.fromkeys(model.tokenizer.end_of_generation, float("-inf"))
    agreed = 0
    for seed in range(3):
        prompt = tokens(20, seed).tolist()
        theirs = continued(server, prompt, 40, never)
        ours = model.generate(prompt, max_tokens=40, draft=0, temperature=0, logit_bias=never).finish().tokens
        different = [i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b]
        agreed += different[0] if different else 40
        if different:
            logits = model.logits(prompt + ours[: different[0]])[-1]
            assert logits[ours[different[0]]] - logits[theirs[different[0]]] < 1e-3
    assert agreed > 100
