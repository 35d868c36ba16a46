"""safetensors files: exactly what the format's own library reads, and damage refused by name."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from offload.checkpoints.safetensors_header import SafetensorsFile
from offload.errors import CheckpointError, TruncatedFile, UnsupportedModel


def test_it_reads_what_the_library_wrote(tmp_path: Path) -> None:
    tensors = {
        "a": torch.arange(6, dtype=torch.float32).reshape(2, 3),
        "b": torch.tensor([1.5, -2.0]).to(torch.bfloat16),
        "c": torch.tensor([[1.0, -448.0]]).to(torch.float8_e4m3fn),
        "scalar": torch.tensor(3, dtype=torch.int64),
        "empty": torch.zeros(0, 4),
    }
    save_file(tensors, tmp_path / "x.safetensors", {"format": "pt"})
    found = SafetensorsFile(tmp_path / "x.safetensors").tensors
    assert {name: tuple(t.shape) for name, t in tensors.items()} == {name: t.shape for name, t in found.items()}
    assert [found[name].dtype for name in ("a", "b", "c", "scalar")] == ["F32", "BF16", "F8_E4M3", "I64"]
    for name, tensor in tensors.items():
        assert found[name].data.tobytes() == tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    assert not found["a"].data.flags.owndata


def file_of(path: Path, header: Any, body: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + body)
    return path


def entry(dtype: str = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"not json", "header is no JSON"),
        ([], "header is no JSON object"),
        (b"[" * 100_000, "header is no JSON"),
        ({"t": 3}, r"'t' is described by 3: the file is damaged"),
        ({"t": {"dtype": "F32"}}, "'t' is described by"),
        ({"t": entry(shape=[-2])}, "'t' is described by"),
        ({"t": entry(shape=[2.0])}, "'t' is described by"),
        ({"t": entry(shape=[True, 2])}, "'t' is described by"),
        ({"t": entry(shape=[1] * 9)}, "'t' is described by"),
        ({"t": entry(shape=[1 << 40, 1 << 40])}, r"'t' of F32 .* needs \d+ bytes, it has 8"),
        ({"t": entry(offsets=[8, 0])}, "needs 8 bytes, it has -8"),
        ({"t": entry(offsets=[0])}, "'t' is described by"),
        ({"t": entry(offsets="ab")}, "'t' is described by"),
        ({"t": entry(), "u": entry(offsets=[4, 12])}, "'t' and 'u' overlap"),
    ],
)
def test_lies_are_found(tmp_path: Path, header: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        SafetensorsFile(file_of(tmp_path / "x.safetensors", header, bytes(16)))


def test_other_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="'t' has elements of type 'F4'"):
        SafetensorsFile(file_of(tmp_path / "a", {"t": entry("F4")}, bytes(8)))
    with pytest.raises(TruncatedFile, match="ends 3 bytes before tensor 't' does"):
        SafetensorsFile(file_of(tmp_path / "b", {"t": entry()}, bytes(5)))
    with pytest.raises(TruncatedFile, match="ends at byte 10, its header reaches to 108"):
        SafetensorsFile(file_of(tmp_path / "c", b"{}", length=100))
    (tmp_path / "d").write_bytes(b"abc")
    with pytest.raises(TruncatedFile, match="less than 8 bytes"):
        SafetensorsFile(tmp_path / "d")
    (tmp_path / "e").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    with pytest.raises(CheckpointError, match="git-lfs pointer"):
        SafetensorsFile(tmp_path / "e")
    with pytest.raises(CheckpointError, match="cannot be opened: No such file"):
        SafetensorsFile(tmp_path / "absent")


def test_random_damage_costs_an_error_at_most(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(4, 4), "b": torch.zeros(3)}, tmp_path / "x")
    sound, rng = (tmp_path / "x").read_bytes(), np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(sound)
        damaged[int(rng.integers(0, len(sound) - 80))] = int(rng.integers(0, 256))
        (tmp_path / "y").write_bytes(damaged[: int(rng.integers(1, len(sound) + 1))])
        with suppress(CheckpointError):
            SafetensorsFile(tmp_path / "y")
