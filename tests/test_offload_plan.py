"""Plans: sizes against the published models, memory against what the device then holds, files of headers alone."""

import gc
import json
import math
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from glm_files import GlmFile, random_glm
from moe_files import random_glm_flash
from test_offload_placement_rules import on_device

import offload
from offload.backends.emulated.tensor import MEMORY
from offload.backends.memory import DEVICE_FORMATS
from offload.checkpoints.checkpoint import Checkpoint
from offload.checkpoints.gguf import open_gguf
from offload.cli import main
from offload.errors import TruncatedFile
from offload.hardware import COMPUTERS, accelerator_device, for_prompts, preset
from offload.hardware.presets import CORE_FLOPS
from offload.hardware.speeds import ACCELERATOR_FLOPS
from offload.planning import Workload
from offload.planning.changes import smallest_changes
from offload.planning.options import DeviceOptions
from offload.planning.plan import Plan, make_plan
from offload.planning.predict import predict
from offload.planning.shapes import SHAPES, published
from offload.planning.target import target_of
from offload.transformer.config import config_of

GIB = 1 << 30


def planned(checkpoint: Checkpoint, work: Workload, hardware: str = "ddr5-6000", **options: Any) -> Plan:
    devices = DeviceOptions(**{"device": "auto", **options})
    return make_plan(checkpoint, target_of(devices, hardware), devices, work)


def document(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["plan", *arguments, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_glm_47_agrees_with_what_is_published(capsys: pytest.CaptureFixture[str]) -> None:
    """16.8 B routed weights a token, 10.2 GB of them at about 4.85 bits; 16.0 B others; 368 KiB of cache a token."""
    arguments = ["--shape", "glm-4.7", "--quant", "q4_k_m", "--gpu-memory", "24GiB", "--ram", "256GiB"]
    plan = document(capsys, *arguments, "--hardware", "ddr5-6000")
    assert set(plan) == {
        "fits", "changes", "context", "devices", "layout", "tensors", "kv_bytes_per_token", "bytes_per_token",
        "predicted",
    }  # fmt: skip
    assert plan["fits"]
    assert plan["changes"] == []
    assert plan["kv_bytes_per_token"] == 368 << 10
    gpu, cpu = plan["devices"]
    assert gpu["budget_bytes"] == 24 * GIB
    assert cpu["budget_bytes"] == 256 * GIB
    assert 0.9 < gpu["used_bytes"] / gpu["budget_bytes"] < 1  # as many layers of experts as fit
    routed = sum(roles.get("experts", 0) for roles in plan["bytes_per_token"].values())
    assert routed == pytest.approx(10.2e9, rel=0.01)
    weights = sum(t["bytes"] for t in plan["tensors"])
    assert weights == pytest.approx(216.3e9, rel=0.005)  # of the file that is published
    on_gpu = sum(t["bytes"] for t in plan["tensors"] if t["device"] == "gpu")
    assert gpu["used_bytes"] == pytest.approx(on_gpu + (8192 * 372 << 10), rel=0.002)
    assert plan["predicted"]["bound"] == "dram"
    assert 4 < plan["predicted"]["decode_tokens_per_s"] < 7  # the ceiling of such memory is about 6
    assert plan["predicted"]["decode_tokens_per_s_with_drafts"] >= plan["predicted"]["decode_tokens_per_s"]


@pytest.mark.parametrize(
    ("shape", "routed", "others", "mtp_experts"),
    [("glm-4.5-air", 6.23e9, 6.55e9, 2.21e9), ("glm-4.5", 16.8e9, 16.0e9, 3.77e9), ("glm-4.7", 16.8e9, 16.0e9, 3.77e9)],
)
def test_counts_of_weights(shape: str, routed: float, others: float, mtp_experts: float) -> None:
    """In bf16 each weight is two bytes; norms, biases and routers stay float32."""
    checkpoint = published(shape, "bf16")
    config = config_of(checkpoint)
    plan = planned(checkpoint, Workload(8192, "f16", 512), gpu_memory=100 * GIB)
    read: Counter[str] = Counter()
    for roles in plan.account.by_device().values():
        read.update(roles)
    assert read["experts"] / 2 == pytest.approx(routed, rel=0.005)
    dense = sum(read[role] for role in ("attention", "shared", "dense", "head")) + read["router"] / 2
    assert dense / 2 == pytest.approx(others, rel=0.015)
    block = [t for n, t in checkpoint.tensors.items() if n.startswith(f"blk.{config.num_layers}.") and "_exps" in n]
    assert sum(math.prod(t.shape) for t in block) == pytest.approx(mtp_experts, rel=0.005)


def test_every_shape_and_size_of_card_fits_or_says_what_would() -> None:
    """What is proposed makes it fit when it is done."""
    refused = 0
    for shape in SHAPES:
        checkpoint = published(shape, "q4_k_m")
        for gib in (12, 16, 24, 32):
            options = DeviceOptions(device="auto", gpu_memory=gib * GIB, ram=256 * GIB)
            target, work = target_of(options, "ddr5-6000"), Workload(32768, "f16", 512)
            plan = make_plan(checkpoint, target, options, work)
            changes = smallest_changes(checkpoint, target, options, work, plan)
            assert plan.fits == (changes == [])
            if not plan.fits:
                refused += 1
                assert _fits(shape, gib, changes), (shape, gib, changes)
    assert 3 < refused < 16


def _fits(shape: str, gib: int, changes: list[str]) -> bool:
    words = " ".join(changes).split()
    flags = dict(zip(words[::2], words[1::2], strict=True))
    memory = flags.pop("--gpu-memory", f"{gib}GiB").removesuffix("GiB")
    ram = flags.pop("--ram", "256GiB").removesuffix("GiB")
    options = {"gpu_memory": int(float(memory) * GIB), "ram": int(float(ram) * GIB), "mtp": flags.pop("--mtp", "auto")}
    context, rows = int(flags.pop("--context", 32768)), int(flags.pop("--chunk-size", 512))
    work = Workload(context, flags.pop("--cache-type", "f16"), rows)
    assert not flags
    return planned(published(shape, "q4_k_m"), work, **options).fits


def test_too_little_ram_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    plan = document(capsys, "--shape", "glm-4.7", "--quant", "q8_0", "--gpu-memory", "24GiB", "--ram", "64GiB")
    assert not plan["fits"]
    (change,) = (c for c in plan["changes"] if c.startswith("--ram"))
    assert float(change.removeprefix("--ram ").removesuffix("GiB")) > 300
    assert main(["plan", "--shape", "glm-4.7", "--quant", "q8_0", "--gpu-memory", "24GiB", "--ram", "64GiB"]) == 0
    assert "does not fit" in capsys.readouterr().out


def own_embedding_and_head(file: GlmFile) -> None:
    block = next(name.split(".")[1] for name in file.tensors if "nextn.eh_proj" in name)
    file.tensors[f"blk.{block}.nextn.embed_tokens.weight"] = file.tensors["token_embd.weight"]
    file.tensors[f"blk.{block}.nextn.shared_head_head.weight"] = file.tensors["output.weight"]


def tied(file: GlmFile) -> None:
    for name in [
        n for n in file.tensors if n == "output.weight" or n.endswith(("exp_probs_b.bias", "head_norm.weight"))
    ]:
        del file.tensors[name]


def without_mtp(file: GlmFile) -> None:
    block = next(name.split(".")[1] for name in file.tensors if "nextn.eh_proj" in name)
    for name in [n for n in file.tensors if n.startswith(f"blk.{block}.")]:
        del file.tensors[name]
    file.metadata["glm4moe.block_count"] -= 1
    del file.metadata["glm4moe.nextn_predict_layers"]


MODELS: dict[str, tuple[dict[str, Any], Any, dict[str, Any]]] = {
    "compressed keys and values": ({}, None, {"context": 64, "cache_type": "f16", "chunk_size": 16}),
    "plain": ({}, None, {"context": 128, "cache_type": "f32", "chunk_size": 16}),
    "five layers, no QK norm": ({"layers": 5, "qk_norm": False}, None, {"context": 100, "cache_type": "f16"}),
    "own embedding and head": ({"layers": 2}, own_embedding_and_head, {"context": 64, "cache_type": "q8_0"}),
    "tied": ({"layers": 4}, tied, {"context": 200, "cache_type": "bf16", "chunk_size": 64}),
    "without MTP": ({"layers": 4, "seed": 2}, without_mtp, {"context": 300, "cache_type": "f16", "chunk_size": 32}),
    "trained": ({}, None, {"context": 64, "cache_type": "f16", "chunk_size": 16}),
}


@pytest.mark.parametrize("name", MODELS)
def test_memory_is_what_the_device_then_holds(
    name: str, tiny_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Four budgets each, from the least that fits on; then a prompt of a whole chunk and drafts find room."""
    shape, change, settings = MODELS[name]
    path = tiny_path
    if name != "trained":
        file = random_glm_flash().file if name.startswith("compressed") else random_glm(**shape).file
        if change:
            change(file)
        path = file.write(tmp_path / "model.gguf")
    flags = [text for key, value in settings.items() for text in ("--" + key.replace("_", "-"), str(value))]
    plan = planned_on_emulated(path, settings, 1 << 40)
    least = planned_on_emulated(path, settings, 1 << 40, gpu_expert_layers=0)
    need, whole = (p.placed.held_bytes + p.placed.working_bytes for p in (least, plan))
    layers = []
    try:
        for room in (need + 100, (need + whole) // 2 + 100, whole + 100, 4 * whole):
            shown = document(capsys, str(path), "--device", "emulated", "--gpu-memory", str(room), *flags)
            assert shown["fits"]
            gc.collect()
            base = MEMORY.used_bytes
            model = offload.load(path, device="emulated", gpu_memory=base + room, **settings)
            gc.collect()
            (emulated, host) = shown["devices"]
            assert MEMORY.used_bytes - base == pytest.approx(emulated["used_bytes"], rel=0.02)
            assert host["used_bytes"] == sum(
                t.num_bytes for n, t in model.checkpoint.tensors.items() if model.placement.tensors.get(n) == "cpu"
            )
            prompt = ([5, 17, 200] * model.context)[: min(settings.get("chunk_size", 512) + 3, model.context - 8)]
            result = (
                model.generate(prompt, max_tokens=4, draft=2, drafter="mtp", temperature=0).finish()
                if (model.mtp)
                else model.generate(prompt, max_tokens=4, draft=0, temperature=0).finish()
            )
            assert result.tokens
            layers.append(len(on_device(model)))
            del model
    finally:
        MEMORY.limit_bytes = None
    assert layers == sorted(layers)
    assert layers[0] < layers[-1]


def test_a_draft_model_is_counted(glm_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = random_glm(layers=2, seed=5).file.write(tmp_path / "small.gguf")
    size = 64 << 20
    arguments = [str(glm_path), "--device", "emulated", "--gpu-memory", str(size), "--draft-model", str(small)]
    emulated, _ = document(capsys, *arguments, "--context", "96")["devices"]
    gc.collect()
    base = MEMORY.used_bytes
    model = offload.load(glm_path, device="emulated", context=96, draft_model=small)
    gc.collect()
    held = MEMORY.used_bytes - base
    assert held == pytest.approx(emulated["used_bytes"] + size - emulated["budget_bytes"], rel=0.02)
    assert model.placed.held_bytes == pytest.approx(emulated["used_bytes"], rel=0.001)
    MEMORY.limit_bytes = None


def planned_on_emulated(path: Path, settings: dict[str, Any], size: int, **options: Any) -> Plan:
    work = Workload(settings["context"], settings["cache_type"], settings.get("chunk_size", 512))
    return planned(open_gguf(path), work, device="emulated", gpu_memory=size, **options)


def test_without_room_the_plan_and_the_load_refuse_alike(glm_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = document(capsys, str(glm_path), "--device", "emulated", "--gpu-memory", "1MiB")
    assert not plan["fits"]
    assert plan["changes"]
    with pytest.raises(offload.MoeOffloadError, match=r"needs .* of emulated's memory"):
        offload.load(glm_path, device="emulated", gpu_memory=1 << 20)
    MEMORY.limit_bytes = None


def test_headers_are_enough(tiny_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Behind the header nothing is needed, and what ends there can be planned but not run."""
    whole = document(capsys, str(tiny_path), "--device", "cpu")
    start = min(t.start for t in _header(tiny_path).tensors)
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(tiny_path.read_bytes()[:start])
    assert document(capsys, str(cut), "--device", "cpu") == whole
    with pytest.raises(TruncatedFile):
        open_gguf(cut)


def _header(path: Path) -> Any:
    from offload.checkpoints.gguf_header import Header

    return Header(path)


def test_formats_and_pieces_are_the_backends_own() -> None:
    from offload.backends.eager.backend import PIECE
    from offload.backends.eager.blocks import FORMATS
    from offload.backends.emulated.backend import PIECE as OF_EMULATED
    from offload.backends.memory import TEMPORARIES
    from offload.planning.target import CUDA_PIECE, EAGER_PIECE, EMULATED_PIECE

    assert (EAGER_PIECE, EMULATED_PIECE) == (PIECE, OF_EMULATED)
    assert set(DEVICE_FORMATS) == set(FORMATS)
    if find_spec("triton"):
        from offload.backends.cuda.attention import SCRATCH
        from offload.backends.cuda.blocks import FORMATS

        assert set(DEVICE_FORMATS) == set(FORMATS)
        assert SCRATCH // TEMPORARIES == CUDA_PIECE


def test_what_a_device_does_not_decode_is_counted_as_it_will_be_kept() -> None:
    """Formats of real blocks, expanded by the backend itself."""
    import experts
    from offload.backends.eager.expand import Expansions
    from offload.backends.memory import DeviceMemory

    for formats in (DEVICE_FORMATS, FEWER_FORMATS):
        memory = DeviceMemory(None, formats, 1)
        for name in (
            "Q5_0",
            "Q5_1",
            "Q4_1",
            "IQ4_NL",
            "Q2_K",
            "Q3_K",
            "IQ3_S",
            "IQ2_S",
            "IQ1_S",
            "Q4_K",
            "Q6_K",
            "F16",
        ):
            fmt = experts.FORMATS[name]
            blocks = 16 * 512 // fmt.block_weights
            data = np.random.default_rng(0).integers(0, 256, (blocks, fmt.block_bytes), np.uint8)
            data[:, HALVES.get(name, [])] = 0x2C  # scales of about 0.06
            matrix = experts.Matrix.from_bytes(fmt, 16, 512, data.reshape(-1))
            kept = Expansions(formats).storable(matrix)
            tensor = _sized(name, (16, 512))
            assert memory.stored_format(tensor) == kept.format.name, name
            assert memory.tensor_bytes(tensor) == kept.data.nbytes


FEWER_FORMATS = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS")

# Bytes of a block's float16 scales.
HALVES = {
    "Q5_0": [0, 1], "Q5_1": [0, 1, 2, 3], "Q4_1": [0, 1, 2, 3], "IQ4_NL": [0, 1], "Q2_K": [80, 81, 82, 83],
    "Q3_K": [108, 109], "IQ3_S": [0, 1], "IQ2_S": [0, 1], "IQ1_S": [0, 1], "Q4_K": [0, 1, 2, 3], "Q6_K": [208, 209],
    "F16": [0, 1],
}  # fmt: skip


def _sized(name: str, shape: tuple[int, ...]) -> Any:
    import experts
    from offload.checkpoints.checkpoint import Absent, Tensor

    fmt = experts.FORMATS[name]
    return Tensor("blk.0.attn_q.weight", fmt.ggml_type, shape, Absent(experts.row_bytes(fmt, shape[-1])))


def test_speed_follows_the_bytes() -> None:
    """A closed form: one format, nothing but reading. Twice the bandwidth, half the time."""
    checkpoint = published("glm-4.7", "q8_0")
    config, work = config_of(checkpoint), Workload(4096, "f16", 512)
    plan = planned(checkpoint, work, device="cpu")
    hardware, wider = (
        replace(known, latency_s=replace(known.latency_s, layer=1e-9))
        for known in (preset("ddr5-6000"), preset("epyc-12ch"))
    )
    found = predict(plan.account, config, "cpu", None, hardware, 512)
    seconds = 0.0
    for kind, num_bytes in plan.account.read.items():
        known = kind.format if kind.format in hardware.kernels else "Q8_0"
        seconds += num_bytes / hardware.expert_bytes_per_s(known)
    assert 1 / found.decode_tokens_per_s == pytest.approx(seconds, rel=0.03)
    assert found.bound == "dram"
    fast = predict(plan.account, config, "cpu", None, wider, 512)
    assert fast.decode_tokens_per_s / found.decode_tokens_per_s == pytest.approx(370 / 68, rel=0.1)


def test_prompts_are_bound_by_arithmetic() -> None:
    """However fast the memory: a host's products take as long as its cores need, a card's as was measured."""
    config = config_of(published("glm-4.7", "q4_k_m"))
    routed = 3 * config.num_moe_layers * config.num_used_experts * config.hidden_size * config.expert_ffn_size
    work = Workload(context=4096, cache_type="f16", rows=512)
    for name in ("ddr5-6000", "epyc-12ch"):
        plan = planned(published("glm-4.7", "q4_k_m"), work, name, ram=1 << 40)
        most = COMPUTERS[name].cores * CORE_FLOPS / (2 * routed)
        assert most / 6 < plan.prediction.prompt_tokens_per_s < 1.1 * most
    card = accelerator_device(preset("ddr5-6000+rtx-4090-pcie4"), "rtx-4090-pcie4")
    many = for_prompts(card, preset("ddr5-6000"), on_host=False)
    assert many.row_share * 1e9 / card.bytes_per_s == pytest.approx(2e9 / ACCELERATOR_FLOPS)


def test_it_takes_less_than_two_seconds() -> None:
    """The processor's time, so that others' work does not count; torch is never imported."""
    root = Path(__file__).parent.parent
    command = (
        f"import sys, time; sys.path.insert(0, {str(root)!r}); from offload.cli import main; "
        "main('plan --shape glm-4.7 --quant q4_k_m --gpu-memory 24GiB --ram 256GiB --json'.split()); "
        "assert 'torch' not in sys.modules; print(time.process_time())"
    )
    found = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert float(found.stdout.split()[-1]) < 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shape", "glm-5"], "shape 'glm-5' is unknown; choose one of glm-4.5-air"),
        (["--shape", "glm-4.7", "--quant", "q9"], "quant 'q9' is unknown; choose one of"),
        ([], "plan takes a MODEL file or --shape"),
        (["x.gguf", "--shape", "glm-4.7"], "one of the two"),
        (["--shape", "glm-4.7", "--device", "emulated:gtx"], "no card 'gtx'"),
        (["--shape", "glm-4.7", "--hardware", "abacus"], "no profile 'abacus'"),
        (["--shape", "glm-4.7", "--context", "999999"], "the legal range is 2..202752"),
    ],
)
def test_mistakes_are_named(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *arguments]) == 1
    assert message in " ".join(capsys.readouterr().err.split())
