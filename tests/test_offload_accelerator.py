"""Whole models on the emulated accelerator, routed experts on the CPU: the CPU's text, and no bit changed by drafts.

Every byte that crosses is accounted for.
"""

import gc
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from drafters import AlwaysRight, AlwaysWrong
from glm_files import GlmFile, random_glm

import offload
from offload.backends.emulated.backend import EmulatedBackend
from offload.cli import main
from offload.engine import Engine
from offload.errors import DeviceMemoryFull, OptionError
from offload.sampling import Sampler, SamplingParams
from offload.sequence import Sequence
from offload.transformer.rows import Rows
from scheduler import FixedLength

PROMPT = [5, 17, 200, 33, 5, 17, 200, 33, 5, 17]
PENALTIES: dict[str, Any] = {"repetition_penalty": 1.3, "presence_penalty": 0.4, "frequency_penalty": 0.2}
ON: dict[str, Any] = {"device": "emulated", "check_backends": True, "gpu_expert_layers": 0}
D, K, V, MOE_LAYERS = 64, 3, 264, 2  # of the random model


@pytest.fixture(scope="module")
def accelerated(glm_path: Path) -> offload.LanguageModel:
    return offload.load(glm_path, cache_type="f32", chunk_size=16, **ON)


def backend_of(model: offload.LanguageModel) -> EmulatedBackend:
    assert isinstance(model.backend, EmulatedBackend)
    return model.backend


def test_logits_are_the_cpus(model: offload.LanguageModel, accelerated: offload.LanguageModel) -> None:
    """Float32 weights: only the order of sums differs."""
    token_ids = np.random.default_rng(0).integers(0, V, 40).tolist()
    assert np.abs(accelerated.logits(token_ids) - model.logits(token_ids)).max() < 3e-5


@pytest.mark.parametrize("kind", ["f16", "bf16", "q8_0"])
def test_cache_types(glm_path: Path, kind: str) -> None:
    token_ids = np.random.default_rng(0).integers(0, V, 12).tolist()
    ours, theirs = (offload.load(glm_path, cache_type=kind, device=d).logits(token_ids) for d in ("emulated", "cpu"))
    assert np.abs(ours - theirs).max() < 0.01


def test_greedy_text_is_the_cpus(tiny: offload.LanguageModel, tiny_path: Path) -> None:
    """Quantized weights: the CPU rounds activations to 8 bits, so a near tie may fall to either side, and only that."""
    accelerated = offload.load(tiny_path, device="emulated", gpu_expert_layers=0)
    prompt = tiny.tokenizer.encode("class Stack:\n    def push(self, item):\n")
    expected = tiny.generate(prompt, max_tokens=24, draft=0, temperature=0).finish().tokens
    tokens = accelerated.generate(prompt, max_tokens=24, draft=2, temperature=0).finish().tokens
    different = [i for i, (a, b) in enumerate(zip(tokens, expected, strict=True)) if a != b]
    if different:
        logits = tiny.logits(prompt + expected[: different[0]])[-1]
        assert logits[expected[different[0]]] - logits[tokens[different[0]]] < 0.05


def run(model: offload.LanguageModel, drafter: Any, draft: int, **sampling: Any) -> tuple[list[int], np.ndarray, int]:
    """Tokens, the logits that each was drawn from, and accepted drafts."""
    generation = model.generate(PROMPT, max_tokens=7, draft=draft, drafter=drafter, **sampling)
    engine, sequence = generation._engine, generation._sequence
    logits, accepted = [], 0
    while len(sequence.token_ids) < sequence.limit and sequence.token_ids[-1] not in sequence.stop_ids:
        (outcome,) = engine.step([sequence]).outcomes
        logits.append(outcome.logits[: len(outcome.draws)])
        accepted += outcome.accepted
    return sequence.token_ids[len(PROMPT) :], np.concatenate([x for x in logits if len(x)]), accepted


@pytest.mark.parametrize(("temperature", "penalties"), [(0.0, {}), (0.7, PENALTIES), (1.2, {})])
def test_drafts_change_nothing(
    accelerated: offload.LanguageModel, temperature: float, penalties: dict[str, Any]
) -> None:
    sampling = {"temperature": temperature, "seed": 7, "top_p": 0.9, "min_p": 0.0, "top_k": 50, **penalties}
    plain, plain_logits, _ = run(accelerated, "none", 0, **sampling)
    right, wrong = AlwaysRight(PROMPT, plain), AlwaysWrong(PROMPT, plain)
    for drafter, draft in (("mtp", 1), ("mtp", 3), ("ngram", 2), (right, 5), (wrong, 2)):
        tokens, logits, accepted = run(accelerated, drafter, draft, **sampling)
        assert tokens == plain
        assert np.array_equal(logits, plain_logits)
        assert (accepted > 0) or drafter is not right


def test_drafts_are_accepted_as_on_the_cpu(tiny: offload.LanguageModel, tiny_path: Path) -> None:
    """Sampled drafts share the noise, wherever they are drawn."""
    accelerated = offload.load(tiny_path, device="emulated", gpu_expert_layers=0)
    settings: dict[str, Any] = {"max_tokens": 20, "draft": 2, "temperature": 0.8, "seed": 3}
    results = [m.generate("def read(self, path):\n", **settings).finish() for m in (tiny, accelerated)]
    assert results[0].tokens == results[1].tokens
    assert results[0].acceptance.by_position == results[1].acceptance.by_position
    assert results[0].acceptance.accepted > 5


def test_chunks_change_no_bit(glm_path: Path, accelerated: offload.LanguageModel) -> None:
    token_ids = np.random.default_rng(0).integers(0, V, 30).tolist()
    whole = accelerated.logits(token_ids)
    for chunk_size in (7, 64):
        assert np.array_equal(
            offload.load(glm_path, cache_type="f32", chunk_size=chunk_size, **ON).logits(token_ids), whole
        )


def test_several_sequences_in_one_step_are_what_they_are_alone(accelerated: offload.LanguageModel) -> None:
    """Prompts of different lengths, drafts of different lengths, one batch for the MTP block."""
    from dataclasses import replace

    from offload.drafting import MtpDrafter

    prompts = [PROMPT, [1, 2, 3], list(range(40))]
    alone = [accelerated.generate(p, max_tokens=8, draft=0, temperature=0).finish().tokens for p in prompts]
    config, backend = accelerated.config, accelerated.backend

    def cache(layers: int) -> Any:
        return backend.new_cache("test", (layers, 3, config.num_kv_heads, 64, config.head_size), "f32")

    assert accelerated.mtp is not None
    drafter = MtpDrafter(replace(accelerated.mtp, cache=cache(1)))
    engine = Engine(replace(accelerated.trunk, cache=cache(config.num_layers)), drafter, FixedLength(3), chunk_size=16)
    sampler = Sampler(SamplingParams(temperature=0))
    sequences = [
        Sequence(slot, list(p), len(p) + 8 - slot, sampler, accelerated.tokenizer.end_of_generation)
        for slot, p in enumerate(prompts)
    ]
    for _ in range(40):
        running = [s for s in sequences if len(s.token_ids) < s.limit and s.token_ids[-1] not in s.stop_ids]
        if not running:
            break
        engine.step(running)
    for sequence, prompt, tokens in zip(sequences, prompts, alone, strict=True):
        assert sequence.token_ids[len(prompt) :] == tokens[: 8 - sequence.slot]


@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("draft", [0, 3])
def test_the_ledger_equals_the_formula(accelerated: offload.LanguageModel, draft: int, temperature: float) -> None:
    """Per layer of experts: T rows of D floats down and up, K ids and weights down. Per step: 12 bytes a row for token,
    slot and position; with drafts as much for each row that the drafter is shown (of a prompt at once) and for
    the pair that drafting starts from; 8 bytes a draft back; and the logits of rows that tokens are drawn from.
    """
    accelerated.logits([0])
    generation = accelerated.generate(PROMPT * 3, max_tokens=12, draft=draft, temperature=temperature)
    engine, sequence = generation._engine, generation._sequence
    drafted_rows = waiting = 0
    while len(sequence.token_ids) < sequence.limit and sequence.token_ids[-1] not in sequence.stop_ids:
        cached = sequence.num_cached
        step = engine.step([sequence])
        (outcome,) = step.outcomes
        drafts, kept = len(outcome.draft), sequence.num_cached - cached
        T = kept + drafts - outcome.accepted
        shown = 12 * (waiting + 1) if drafts else 0
        waiting = kept + (0 if drafts else waiting)
        if draft and cached < len(PROMPT * 3) - 1:  # rows of the prompt are shown at once
            shown, waiting = shown + 12 * kept, 0
        expected = {
            ("hidden", "down"): MOE_LAYERS * T * D * 4,
            ("routing", "down"): MOE_LAYERS * T * K * 8,
            ("sums", "up"): MOE_LAYERS * T * D * 4,
            ("tokens", "up"): 12 * T + shown,
            ("tokens", "down"): 8 * drafts,
            ("logits", "down"): len(outcome.logits) * V * 4,
        }
        assert step.bytes_crossed == {key: num_bytes for key, num_bytes in expected.items() if num_bytes}
        drafted_rows += drafts
    assert (drafted_rows > 0) == (draft > 0)


def test_json_reports_what_crossed(glm_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "generate",
        str(glm_path),
        "-p",
        "in the",
        "-n",
        "4",
        "--draft",
        "2",
        "--json",
        "--check-backends",
        "--n-cpu-moe",
        "9",
    ]
    for device in ("emulated:rtx-3090-pcie4", "cpu"):
        assert main([*arguments, "--device", device]) == 0
        document = json.loads(capsys.readouterr().out.rstrip("\n").rpartition("\n")[2])
        assert ("emulated_tokens_per_s" in document) == (device != "cpu")
        crossed = document["bytes_crossed"]
        assert set(crossed) == {"hidden", "routing", "sums", "tokens", "logits", "mtp"}
        assert crossed["mtp"] == {"down": 0, "up": 0}
        assert crossed["hidden"]["down"] == crossed["sums"]["up"]
        assert (crossed["hidden"]["down"] > 0) == (device != "cpu")
        assert crossed["hidden"]["up"] == crossed["sums"]["down"] == 0


def test_a_failed_allocation_is_clean(
    glm_path: Path, accelerated: offload.LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too little memory is said with the fix, nothing of the failed model stays, and the others go on.

    Nobody looks ahead here: otherwise the model is refused before anything is allocated.
    """
    monkeypatch.setattr("offload.api.check_fits", lambda placed: None)
    memory, before_logits = backend_of(accelerated).memory, accelerated.logits(PROMPT)
    gc.collect()
    before = memory.used_bytes
    try:
        for room in (100_000, 1_200_000):  # the weights do not fit; the cache does not
            with pytest.raises(DeviceMemoryFull, match=r"no memory left: tried to allocate .*--context"):
                offload.load(glm_path, gpu_memory=before + room, cache_type="f32", **ON)
            gc.collect()
            assert memory.used_bytes == before
    finally:
        memory.limit_bytes = None
    assert np.array_equal(accelerated.logits(PROMPT), before_logits)


def test_a_step_without_room_leaves_the_sequence_as_it_was(accelerated: offload.LanguageModel) -> None:
    memory = backend_of(accelerated).memory
    expected = accelerated.generate(PROMPT, max_tokens=6, draft=2, temperature=0).finish().tokens
    accelerated.logits([0])
    generation = accelerated.generate(PROMPT, max_tokens=6, draft=2, temperature=0)
    engine, sequence = generation._engine, generation._sequence
    while len(sequence.token_ids) < sequence.limit and sequence.token_ids[-1] not in sequence.stop_ids:
        before = list(sequence.token_ids), sequence.num_cached
        memory.limit_bytes = memory.used_bytes + 2000
        try:
            with pytest.raises(DeviceMemoryFull):
                engine.step([sequence])
        finally:
            memory.limit_bytes = None
        assert (sequence.token_ids, sequence.num_cached) == before
        engine.step([sequence])
    assert sequence.token_ids[len(PROMPT) :] == expected


def changed(tmp_path: Path, change: Any) -> Path:
    file: GlmFile = random_glm(layers=2).file
    change(file)
    return file.write(tmp_path / "changed.gguf")


def own_embedding_and_head(file: GlmFile) -> None:
    file.tensors["blk.2.nextn.embed_tokens.weight"] = file.tensors["token_embd.weight"]
    file.tensors["blk.2.nextn.shared_head_head.weight"] = file.tensors["output.weight"]


def tied(file: GlmFile) -> None:
    for name in ("output.weight", "blk.2.nextn.shared_head_norm.weight", "blk.1.exp_probs_b.bias"):
        del file.tensors[name]


@pytest.mark.parametrize("change", [own_embedding_and_head, tied, lambda file: None])
def test_embeddings_and_heads_of_every_kind(tmp_path: Path, change: Any) -> None:
    path = changed(tmp_path, change)
    cpu, accelerated = offload.load(path, cache_type="f32"), offload.load(path, cache_type="f32", mtp="on", **ON)
    settings: dict[str, Any] = {"max_tokens": 6, "draft": 2, "temperature": 0}
    ours, theirs = (m.generate(PROMPT, **settings).finish() for m in (accelerated, cpu))
    assert ours.tokens == theirs.tokens
    assert ours.acceptance.by_position == theirs.acceptance.by_position


def test_mtp_off_loads_no_tensor_and_allocates_no_cache(glm_path: Path, accelerated: offload.LanguageModel) -> None:
    gc.collect()
    memory = backend_of(accelerated).memory
    used = []
    for mtp in ("auto", "off"):
        before = memory.used_bytes
        model = offload.load(glm_path, cache_type="f32", context=128, mtp=mtp, **ON)
        used.append(memory.used_bytes - before)
        tensors, config = model.checkpoint.tensors, model.config
        if mtp == "off":
            assert model.mtp is None
            assert not [name for name in model.placement.tensors if name.startswith("blk.3.")]
            result = model.generate(PROMPT, max_tokens=3, draft=2, temperature=0).finish()  # and no warning
            assert result.acceptance.drafted == 0
        del model
        gc.collect()
    block = sum(tensor.num_bytes for name, tensor in tensors.items() if name.startswith("blk.3."))
    cache = 2 * 128 * config.num_kv_heads * config.head_size * 4
    assert used[0] - used[1] == block + cache


def test_memory_held_is_the_placements(glm_path: Path, accelerated: offload.LanguageModel) -> None:
    """Weights that stand on the device, caches, the table of angles and 16 values of IQ4: nothing else stays."""
    gc.collect()
    memory = backend_of(accelerated).memory
    before = memory.used_bytes
    model = offload.load(glm_path, cache_type="f16", context=100, **ON)
    gc.collect()
    placed = [name for name, device in model.placement.tensors.items() if device == model.backend.name]
    weights = sum(model.checkpoint.tensors[name].num_bytes for name in placed)
    config = model.config
    angles = 100 * config.rotated_size * 4
    caches = (config.num_layers + 1) * 100 * 2 * config.num_kv_heads * config.head_size * 2
    assert model.backend.ledger.totals() == {("weights", "up"): weights + angles + 16 * 4}
    assert memory.used_bytes - before == weights + angles + 16 * 4 + caches


def test_mtp_on_insists(tmp_path: Path) -> None:
    def drop(file: GlmFile) -> None:
        del file.tensors["blk.2.nextn.eh_proj.weight"]

    with pytest.raises(OptionError, match=r"cannot be used: tensor blk.2.nextn.eh_proj.weight is missing.*--mtp off"):
        offload.load(changed(tmp_path, drop), mtp="on")


@pytest.mark.parametrize(("sees_card", "has_triton", "expected"), [(1, 1, "cuda"), (0, 1, "cpu"), (1, 0, "cpu")])
def test_auto_takes_a_card_that_has_kernels(
    sees_card: bool, has_triton: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offload.backends.devices, "DRIVERS", {"cuda": ("driver",)})
    monkeypatch.setattr(offload.backends.devices, "_loads", lambda library: True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: has_triton or None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: sees_card)
    assert offload.backends.devices.resolved("auto") == expected
    assert offload.backends.devices.resolved("xpu") == "xpu"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"device": "gpu"}, r"device 'gpu' is unknown; choose one of auto, cpu"),
        ({"device": "cuda:99"}, r"torch .* sees no such device|count from 0"),
        ({"device": "emulated:x"}, r"no card 'x'"),
        ({"device": "emulated", "cache_type": "q3"}, r"cache type 'q3'"),
        ({"mtp": "maybe"}, r"mtp is 'maybe'"),
        ({"devise": "cpu"}, r"unknown parameter 'devise'; did you mean 'device'"),
        ({"device": "cpu", "gpu_memory": 5}, r"gpu_memory"),
    ],
)
def test_illegal_devices_are_named(glm_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(offload.MoeOffloadError, match=message):
        offload.load(glm_path, **arguments)


def test_a_plain_step_reads_rows_once(accelerated: offload.LanguageModel) -> None:
    """The emulated card is charged for each matrix once a step, however many rows share it."""
    clock, rows = backend_of(accelerated).clock, Rows.consecutive(0, 0, [1])
    charged = []
    for num in (1, 4):
        before = clock.device_s
        accelerated.trunk.forward(Rows.concat([rows] * num))
        charged.append(clock.device_s - before)
    assert charged[1] < 1.01 * charged[0]
