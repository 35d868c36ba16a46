"""deepseek2 files from before April 2025, with keys and values in one matrix: against ones of today and llama.cpp."""

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
from glm_files import VOCAB_SIZE, GlmFile
from llama_cpp import greedy_tokens
from moe_files import random_deepseek2, random_deepseek3

import offload
from offload.checkpoints.checkpoint import Checkpoint
from offload.checkpoints.open import open_checkpoint
from offload.cli import main
from offload.errors import CheckpointError, UnsupportedModel
from offload.quantize import quantize

H, P, S, R, L = 4, 24, 24, 16, 256  # heads; plain, value and rotated dimensions of a head; rank
KINDS = ["F32", "F16", "BF16", "Q8_0", "Q4_K"]
IDS = np.random.default_rng(0).integers(0, VOCAB_SIZE, 40)
ATTENTION = "deepseek2.attention."


def joined(file: GlmFile) -> dict[str, np.ndarray]:
    """`attn_kv_b` of every block, float32 (H * (P + S), L)."""
    keys_HLP = {name: tensor for name, tensor in file.tensors.items() if name.endswith("attn_k_b.weight")}
    return {
        name.replace("k_b", "kv_b"): np.concatenate(
            [keys.swapaxes(1, 2), file.tensors[name.replace("k_b", "v_b")]], axis=1
        ).reshape(-1, L)
        for name, keys in keys_HLP.items()
    }


def older(file: GlmFile, kind: str) -> GlmFile:
    """The same model as it was written then, `attn_kv_b` in a block format."""
    sizes = {"head_count_kv": H, "key_length": P + R, "value_length": S}
    metadata = file.metadata | {ATTENTION + key: size for key, size in sizes.items()}
    del metadata[ATTENTION + "key_length_mla"], metadata[ATTENTION + "value_length_mla"]
    tensors = {n: t for n, t in file.tensors.items() if not n.endswith(("attn_k_b.weight", "attn_v_b.weight"))}
    type_ = gguf.GGMLQuantizationType[kind]
    encode = (lambda x: quantize(x, kind)) if kind == "Q4_K" else (lambda x: gguf.quants.quantize(x, type_))
    encoded = {name: (encode(values), type_) for name, values in joined(file).items()}
    return GlmFile(metadata, tensors, file.tokens, file.token_types, encoded=encoded)


def as_float(checkpoint: Checkpoint, name: str) -> np.ndarray:
    tensor = checkpoint.tensors[name]
    rows = tensor.data.reshape(tensor.num_matrices * tensor.num_rows, -1)
    return gguf.quants.dequantize(rows, gguf.GGMLQuantizationType(tensor.ggml_type)).reshape(tensor.shape)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_lost_by_splitting(tmp_path: Path, kind: str) -> None:
    file = older(random_deepseek2(kv_rank=L).file, kind)
    checkpoint = open_checkpoint(file.write(tmp_path / "old.gguf"))
    assert not [name for name in checkpoint.tensors if "attn_kv_b" in name]
    for name, (rows, type_) in file.encoded.items():
        expected_HNL = gguf.quants.dequantize(rows, type_).reshape(H, P + S, L)
        keys, values = name.replace("kv_b", "k_b"), name.replace("kv_b", "v_b")
        assert np.array_equal(as_float(checkpoint, keys), expected_HNL[:, :P].swapaxes(1, 2))
        assert np.array_equal(as_float(checkpoint, values), expected_HNL[:, P:])
        assert checkpoint.tensors[values].ggml_type == type_  # in the blocks that they came in
        assert checkpoint.tensors[keys].ggml_type == (type_ if kind in ("F32", "F16", "BF16") else 0)


@pytest.mark.parametrize("device", ["cpu", "emulated"])
def test_results_are_those_of_the_file_of_today(tmp_path: Path, device: str) -> None:
    random = random_deepseek2(kv_rank=L)
    old, new = (file.write(tmp_path / name) for file, name in ((older(random.file, "F32"), "o"), (random.file, "n")))
    expected = offload.load(new, cache_type="f32", device=device)
    model = offload.load(old, cache_type="f32", device=device)
    assert model.config == expected.config
    assert np.array_equal(model.logits(IDS), expected.logits(IDS))


@pytest.mark.parametrize("kind", ["F32", "Q8_0", "Q4_K"])
def test_greedy_tokens_equal_llama_cpp(tmp_path: Path, kind: str) -> None:
    """On the old file itself, until a near tie; it rounds other values to 8 bits than the absorbed form does."""
    path = older(random_deepseek3(kv_rank=L).file, kind).write(tmp_path / "old.gguf")
    model, agreed = offload.load(path, cache_type="f32"), 0
    for prompt in IDS[:20].tolist(), IDS[20:].tolist():
        theirs = greedy_tokens(path, prompt, 30)
        ours = model.generate(prompt, max_tokens=30, draft=2, temperature=0).finish().tokens
        same = next((i for i, pair in enumerate(zip(ours, theirs, strict=False)) if len({*pair}) > 1), len(theirs))
        agreed += same
        if same < len(theirs):
            logits = model.logits([*prompt, *ours[:same]])[-1]
            assert logits[ours[same]] - logits[theirs[same]] < (1e-3 if kind == "F32" else 0.1)
    assert agreed > 20


def test_a_plan_needs_the_header_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = older(random_deepseek2(kv_rank=L).file, "Q8_0").write(tmp_path / "old.gguf")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - sum(t.num_bytes for t in open_checkpoint(path).tensors.values()) // 2])
    main(["plan", str(path), "--json"])
    plan = json.loads(capsys.readouterr().out)
    assert plan["kv_bytes_per_token"] == 3 * (L + R) * 2


@pytest.mark.parametrize(
    ("key", "value", "error", "message"),
    [
        ("key_length", None, CheckpointError, r"'deepseek2\.attention\.key_length' \(int\) is missing"),
        ("key_length", R, CheckpointError, r"attn_kv_b\.weight has shape \(192, 256\); each of 4 heads needs 0 rows"),
        ("key_length", P + S + R, CheckpointError, "needs 48 rows of keys and some of values"),
        ("head_count", 5, CheckpointError, "each of 5 heads"),
        ("head_count", 0, CheckpointError, "each of 0 heads"),
        ("value_length", S + 1, CheckpointError, r"has shape .*, the metadata ask for"),
        ("kv_lora_rank", L - 1, CheckpointError, r"has shape .*, the metadata ask for"),
    ],
)
def test_contradictions_are_named(
    tmp_path: Path, key: str, value: int | None, error: type[Exception], message: str
) -> None:
    file = older(random_deepseek2(kv_rank=L).file, "F32")
    if value is None:
        del file.metadata[ATTENTION + key]
    else:
        file.metadata[ATTENTION + key] = value
    with pytest.raises(error, match=message):
        offload.load(file.write(tmp_path / "old.gguf"))


def test_without_either_form_it_is_refused(tmp_path: Path) -> None:
    file = older(random_deepseek2(kv_rank=L).file, "F32")
    file.encoded.clear()
    with pytest.raises(UnsupportedModel, match=r"key_length_mla is missing, and so is attn_kv_b"):
        offload.load(file.write(tmp_path / "old.gguf"))
