"""GGUF reading: literal bytes, the `gguf` package as oracle, files in parts."""

import math
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest

from offload.checkpoints.gguf import Checkpoint, open_gguf
from offload.checkpoints.gguf_header import type_name
from offload.errors import CheckpointError

FORMATS = ("F32", "F16", "BF16", "Q8_0", "Q5_1", "Q2_K", "Q4_K", "Q6_K", "IQ4_XS", "IQ2_S", "MXFP4")


def tensors_of_each_format() -> dict[str, tuple[gguf.GGMLQuantizationType, tuple[int, ...], bytes]]:
    """name -> (type, shape in elements, encoded bytes), with one to three dimensions."""
    rng = np.random.default_rng(1)
    tensors = {}
    for number, name in enumerate(FORMATS):
        ggml_type = gguf.GGMLQuantizationType[name]
        shape = ((256,), (3, 256), (2, 3, 512))[number % 3]
        block, block_bytes = gguf.GGML_QUANT_SIZES[ggml_type]
        tensors[f"blk.{number}.{name}.weight"] = (
            ggml_type,
            shape,
            rng.bytes(math.prod(shape) // block * block_bytes),
        )
    return tensors


def write(path: Path, split_max_tensors: int = 0) -> None:
    """A file with every value type in its metadata and every format among its tensors."""
    writer = gguf.GGUFWriter(path, "glm4moe", split_max_tensors=split_max_tensors)
    writer.add_uint8("a.u8", 200)
    writer.add_int8("a.i8", -100)
    writer.add_uint16("a.u16", 60000)
    writer.add_int16("a.i16", -30000)
    writer.add_uint32("a.u32", 4_000_000_000)
    writer.add_int32("a.i32", -2_000_000_000)
    writer.add_uint64("a.u64", 2**64 - 1)
    writer.add_int64("a.i64", -(2**63))
    writer.add_float32("a.f32", 0.1)
    writer.add_float64("a.f64", 0.1)
    writer.add_bool("a.yes", True)
    writer.add_bool("a.no", False)
    writer.add_string("a.text", "Zürich \U0001f600")
    writer.add_string("a.empty", "")
    writer.add_array("a.ints", [1, -2, 3])
    writer.add_array("a.floats", [0.5, -1.5])
    writer.add_array("a.bools", [True, False, True])
    writer.add_array("a.texts", ["", "a", "Ġthe", "日本"])
    for name, (ggml_type, shape, data) in tensors_of_each_format().items():
        rows = np.frombuffer(data, np.uint8).reshape(*shape[:-1], -1)
        writer.add_tensor(name, rows, raw_dtype=ggml_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    write(tmp_path / "model.gguf")
    return open_gguf(tmp_path / "model.gguf")


def literal_file(version: int) -> bytes:
    """One string, one float32 tensor of 2 x 3, written by hand."""
    name = b"x.weight"
    header = b"GGUF" + struct.pack("<IQQ", version, 1, 1)
    header += struct.pack("<Q", 1) + b"k" + struct.pack("<IQ", 8, 2) + b"hi"
    header += struct.pack("<Q", len(name)) + name + struct.pack("<IQQIQ", 2, 3, 2, 0, 0)
    header += bytes(-len(header) % 32)
    return header + np.arange(6, dtype="<f4").tobytes()


@pytest.mark.parametrize("version", [2, 3])
def test_literal_bytes(tmp_path: Path, version: int) -> None:
    path = tmp_path / "literal.gguf"
    path.write_bytes(literal_file(version))
    checkpoint = open_gguf(path)
    assert checkpoint.paths == (path,)
    assert checkpoint.metadata == {"k": "hi"}
    (tensor,) = checkpoint.tensors.values()
    assert (tensor.name, tensor.ggml_type, tensor.shape, tensor.num_bytes) == ("x.weight", 0, (2, 3), 24)
    assert tensor.data.view("<f4").tolist() == [0, 1, 2, 3, 4, 5]


def test_no_tensors_and_no_metadata(tmp_path: Path) -> None:
    path = tmp_path / "nothing.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 0))
    checkpoint = open_gguf(str(path))
    assert not checkpoint.metadata
    assert not checkpoint.tensors


def test_metadata_equals_the_gguf_package(tmp_path: Path, checkpoint: Checkpoint) -> None:
    fields = gguf.GGUFReader(tmp_path / "model.gguf").fields
    expected = {key: field.contents() for key, field in fields.items() if not key.startswith("GGUF.")}
    found = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in checkpoint.metadata.items()}
    assert found == expected
    assert list(found) == list(expected)


def test_metadata_values_and_types(checkpoint: Checkpoint) -> None:
    metadata = checkpoint.metadata
    assert metadata["a.u64"] == 2**64 - 1
    assert metadata["a.i64"] == -(2**63)
    assert metadata["a.f32"] == float(np.float32(0.1))
    assert metadata["a.yes"] is True
    assert metadata["a.no"] is False
    assert metadata["a.text"] == "Zürich \U0001f600"
    assert metadata["a.texts"] == ["", "a", "Ġthe", "日本"]
    assert metadata["a.ints"].dtype == np.int32
    assert metadata["a.floats"].dtype == np.float32
    assert metadata["a.bools"].dtype == np.bool_


def test_tensors_equal_the_gguf_package(tmp_path: Path, checkpoint: Checkpoint) -> None:
    expected = gguf.GGUFReader(tmp_path / "model.gguf").tensors
    assert list(checkpoint.tensors) == [tensor.name for tensor in expected]
    for theirs in expected:
        ours = checkpoint.tensors[theirs.name]
        assert ours.ggml_type == theirs.tensor_type
        assert ours.shape == tuple(theirs.shape[::-1])
        assert ours.num_bytes == theirs.n_bytes
        np.testing.assert_array_equal(ours.data, theirs.data.reshape(-1).view(np.uint8))


def test_tensor_data_are_the_bytes_written(checkpoint: Checkpoint) -> None:
    for name, (ggml_type, shape, data) in tensors_of_each_format().items():
        tensor = checkpoint.tensors[name]
        assert (tensor.ggml_type, tensor.shape, tensor.data.tobytes()) == (ggml_type, shape, data)


def test_tensor_data_are_read_only_views_of_one_mapping(checkpoint: Checkpoint) -> None:
    tensors = list(checkpoint.tensors.values())
    assert all(tensor.data.base is tensors[0].data.base for tensor in tensors)
    assert not any(tensor.data.flags.writeable or tensor.data.flags.owndata for tensor in tensors)


def test_a_larger_alignment(tmp_path: Path) -> None:
    path = tmp_path / "aligned.gguf"
    writer = gguf.GGUFWriter(path, "glm4moe")
    writer.add_custom_alignment(4096)
    for number in range(3):
        writer.add_tensor(f"t{number}", np.full(5, number, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    tensors = open_gguf(path).tensors
    assert [tensors[f"t{n}"].data.view("<f4").tolist() for n in range(3)] == [[n] * 5 for n in range(3)]


def test_invalid_utf8_in_a_value_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "token.gguf"
    path.write_bytes(literal_file(3).replace(b"hi", b"h\xff"))
    assert open_gguf(path).metadata == {"k": "h\ufffd"}


def test_nested_arrays(tmp_path: Path) -> None:
    path = tmp_path / "nested.gguf"
    inner = [struct.pack("<IQ", 5, len(row)) + np.array(row, "<i4").tobytes() for row in ([1, 2], [], [3])]
    value = struct.pack("<IIQ", 9, 9, 3) + b"".join(inner)
    path.write_bytes(b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + value)
    assert [row.tolist() for row in open_gguf(path).metadata["k"]] == [[1, 2], [], [3]]


@pytest.mark.parametrize("given", [1, 2, 4])
def test_any_part_opens_all_of_them(tmp_path: Path, checkpoint: Checkpoint, given: int) -> None:
    write(tmp_path / "split.gguf", split_max_tensors=3)
    split = open_gguf(tmp_path / f"split-{given:05}-of-00004.gguf")
    assert [path.name for path in split.paths] == [f"split-{no:05}-of-00004.gguf" for no in (1, 2, 3, 4)]
    assert list(split.tensors) == list(checkpoint.tensors)
    assert [t.file_index for t in split.tensors.values()] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3]
    assert all(t.data.tobytes() == checkpoint.tensors[t.name].data.tobytes() for t in split.tensors.values())
    assert split.metadata["a.text"] == checkpoint.metadata["a.text"]


def test_missing_parts_are_named(tmp_path: Path) -> None:
    write(tmp_path / "split.gguf", split_max_tensors=3)
    for no in (2, 3):
        (tmp_path / f"split-{no:05}-of-00004.gguf").unlink()
    with pytest.raises(CheckpointError, match=r"2 of its 4 parts .*split-00002-of-00004\.gguf, split-00003-of"):
        open_gguf(tmp_path / "split-00001-of-00004.gguf")


def test_a_renamed_part_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "split.gguf", split_max_tensors=3)
    renamed = (tmp_path / "split-00001-of-00004.gguf").rename(tmp_path / "model.gguf")
    with pytest.raises(CheckpointError, match="is one of 4 parts, but is not named like"):
        open_gguf(renamed)


def test_exchanged_parts_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "split.gguf", split_max_tensors=3)
    second, third = (tmp_path / f"split-{no:05}-of-00004.gguf" for no in (2, 3))
    content = second.read_bytes()
    second.write_bytes(third.read_bytes())
    third.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"split\.no is 2, but its name says 1"):
        open_gguf(second)


def test_parts_must_hold_the_promised_number_of_tensors(tmp_path: Path) -> None:
    write(tmp_path / "split.gguf", split_max_tensors=3)
    first = tmp_path / "split-00001-of-00004.gguf"
    promise = b"split.tensors.count" + struct.pack("<Ii", 5, 11)
    first.write_bytes(first.read_bytes().replace(promise, promise[:-4] + struct.pack("<i", 12)))
    with pytest.raises(CheckpointError, match=r"split\.tensors\.count is 12, but 11 tensors are there"):
        open_gguf(first)


def test_get_checks_the_type(checkpoint: Checkpoint) -> None:
    assert checkpoint.get("a.u32", int) == 4_000_000_000
    assert checkpoint.get("a.u8", float) == 200.0
    assert checkpoint.get("a.yes", bool) is True
    assert checkpoint.get("a.texts", list) == ["", "a", "Ġthe", "日本"]
    assert checkpoint.get("b.absent", int, 7) == 7
    with pytest.raises(CheckpointError, match=r"'b\.absent' \(int\) is missing"):
        checkpoint.get("b.absent", int)
    with pytest.raises(CheckpointError, match=r"'a\.text' must be int, found str 'Zürich"):
        checkpoint.get("a.text", int)
    with pytest.raises(CheckpointError, match="must be int, found bool True"):
        checkpoint.get("a.yes", int)
    with pytest.raises(CheckpointError, match=r"must be int, found float 0\.1"):
        checkpoint.get("a.f64", int, 3)


def test_names_of_block_formats() -> None:
    assert type_name(12) == "Q4_K"
    assert type_name(139) == "IQ4_K (ik_llama.cpp only)"
    assert type_name(339) == "IQ4_K_R4 (ik_llama.cpp only)"
    assert type_name(4) == "type 4"
