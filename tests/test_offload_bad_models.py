"""Well-formed GGUF files that are no model that can be run: each refused by name."""

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from glm_files import GlmFile, random_glm

import offload
from offload.errors import CheckpointError, MissingTensors, UnsupportedModel

Change = Callable[[GlmFile], object]


@pytest.fixture
def file() -> GlmFile:
    return random_glm().file


def load_changed(file: GlmFile, tmp_path: Path, change: Change) -> offload.LanguageModel:
    change(file)
    return offload.load(file.write(tmp_path / "changed.gguf"))


def set_key(key: str, value: object) -> Change:
    return lambda file: file.metadata.__setitem__(key, value)


def drop(name: str) -> Change:
    return lambda file: file.tensors.pop(name)


def put(name: str, *shape: int) -> Change:
    return lambda file: file.tensors.__setitem__(name, np.zeros(shape, np.float32))


def drop_layer_experts(file: GlmFile) -> None:
    for part in ("gate", "up", "down"):
        del file.tensors[f"blk.1.ffn_{part}_exps.weight"]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (set_key("general.architecture", "mamba"), UnsupportedModel, "'mamba'.*glm4moe, qwen3, qwen3moe, deepseek2"),
        (lambda f: f.metadata.pop("glm4moe.expert_count"), CheckpointError, "glm4moe.expert_count"),
        (set_key("glm4moe.expert_count", "many"), CheckpointError, "glm4moe.expert_count"),
        (set_key("glm4moe.block_count", 4_000_000_000), CheckpointError, "block_count is 4000000000.*1..4096"),
        (set_key("glm4moe.expert_used_count", 9), CheckpointError, "expert_used_count is 9.*1..8"),
        (set_key("glm4moe.attention.head_count_kv", 3), CheckpointError, "4 attention heads.*3"),
        (set_key("glm4moe.rope.dimension_count", 7), CheckpointError, "dimension_count is 7"),
        (set_key("glm4moe.rope.freq_base", -1.0), CheckpointError, "freq_base is -1"),
        (set_key("glm4moe.expert_gating_func", 3), UnsupportedModel, r"gating_func is 3; 1 \(softmax\) and 2"),
        (set_key("glm4moe.expert_group_count", 3), CheckpointError, "8 experts cannot form 3 groups"),
        (set_key("glm4moe.embedding_length", 65), CheckpointError, r"token_embd.weight has shape .*\(264, 65\)"),
        (drop("token_embd.weight"), CheckpointError, "token_embd.weight is missing"),
        (drop("blk.0.attn_q.weight"), MissingTensors, "tensor blk.0.attn_q.weight is missing"),
        (drop_layer_experts, MissingTensors, "tensors blk.1.ffn_gate_exps.weight.*are missing"),
        (put("blk.0.surprise.weight", 3), CheckpointError, "blk.0.surprise.weight is not known"),
        (put("output_norm.weight", 63), CheckpointError, r"output_norm.weight has shape \(63,\)"),
        (lambda f: f.tokens.append("more") or f.token_types.append(1), offload.MoeOffloadError, "265.*264"),
        (lambda f: setattr(f, "template", "{% for %}"), offload.MoeOffloadError, "template"),
    ],
)  # fmt: skip
def test_refused_by_name(file: GlmFile, tmp_path: Path, change: Change, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        load_changed(file, tmp_path, change)


def test_a_format_without_a_kernel_is_named(tmp_path: Path) -> None:
    path = tmp_path / "tq1.gguf"
    writer = gguf.GGUFWriter(path, "glm4moe")
    data = np.zeros((8, 54), np.uint8)
    writer.add_tensor("token_embd.weight", data, raw_dtype=gguf.GGMLQuantizationType.TQ1_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    tensor = next(iter(offload.checkpoints.gguf.open_gguf(path).tensors.values()))
    from offload.checkpoints.stored import as_matrix

    with pytest.raises(UnsupportedModel, match=r"token_embd.weight.*TQ1_0"):
        as_matrix(tensor)


def test_without_mtp_tensors_it_runs_and_says_so_once(file: GlmFile, tmp_path: Path) -> None:
    def drop_mtp(file: GlmFile) -> None:
        file.metadata["glm4moe.block_count"] = 3
        file.metadata["glm4moe.nextn_predict_layers"] = 0
        file.tensors = {name: t for name, t in file.tensors.items() if not name.startswith("blk.3.")}

    model = load_changed(file, tmp_path, drop_mtp)
    with pytest.warns(UserWarning, match="no usable MTP block"):
        first = model.generate([1, 2, 3], max_tokens=5, draft=2, temperature=0).finish()
    second = model.generate([1, 2, 3], max_tokens=5, draft=2, temperature=0).finish()
    assert first.tokens == second.tokens
    assert first.acceptance.drafted == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("blk.3.nextn.gate.weight", 4), "blk.3.nextn.gate.weight is of an unknown kind"),
        (drop("blk.3.nextn.eh_proj.weight"), "blk.3.nextn.eh_proj.weight is missing"),
        (drop("blk.3.attn_k.weight"), "blk.3.attn_k.weight is missing"),
        (put("blk.3.nextn.eh_proj.weight", 64, 64), r"eh_proj.weight has shape \(64, 64\)"),
    ],
)
def test_an_unknown_mtp_block_is_left_out_and_named(
    file: GlmFile, tmp_path: Path, change: Change, message: str
) -> None:
    with pytest.warns(UserWarning, match=message):
        model = load_changed(file, tmp_path, change)
    assert model.mtp is None
    assert model.generate([1, 2, 3], max_tokens=3, draft=0, temperature=0).finish().tokens


def test_optional_tensors(file: GlmFile, tmp_path: Path) -> None:
    """A tied head, an MTP block with its own embedding and head, no correction bias, no shared head norm."""
    whole = offload.load(file.write(tmp_path / "whole.gguf"))
    embedding, head = file.tensors["token_embd.weight"], file.tensors["output.weight"]
    file.tensors["blk.3.nextn.embed_tokens.weight"] = embedding
    file.tensors["blk.3.nextn.shared_head_head.weight"] = head
    own = offload.load(file.write(tmp_path / "own.gguf"))
    results = [m.generate([1, 2, 3], max_tokens=20, draft=2, temperature=0).finish() for m in (whole, own)]
    assert results[0].tokens == results[1].tokens
    assert results[0].acceptance.by_position == results[1].acceptance.by_position

    for name in ("output.weight", "blk.3.nextn.shared_head_norm.weight", "blk.1.exp_probs_b.bias"):
        del file.tensors[name]
    tied = offload.load(file.write(tmp_path / "tied.gguf"))
    hidden = np.ones((1, tied.config.hidden_size), np.float32)
    assert np.allclose(tied.trunk.logits(hidden), hidden @ embedding.T, atol=1e-4)
    assert tied.mtp is not None
    assert np.array_equal(tied.mtp.weights.head_norm, tied.trunk.weights.output_norm)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"context": 1}, r"context is 1; the legal range is 2..512"),
        ({"context": 513}, r"context is 513"),
        ({"cache_type": "q3"}, r"'q3'.*f32, f16"),
        ({"chunk_size": 0}, r"chunk_size is 0"),
    ],
)
def test_illegal_load_arguments_are_named(glm_path: Path, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(offload.MoeOffloadError, match=message):
        offload.load(glm_path, **arguments)  # type: ignore[arg-type]
