"""One safetensors file, mapped: names, types and shapes of its tensors, and their bytes as views.

The header is checked before anything of it is believed; only its pages are read.

Source: the format's description in the `safetensors` repository: 8 bytes with the length of a JSON object, the object,
then all tensors' bytes without gaps.
"""

import json
import math
import mmap
import os
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from ..errors import CheckpointError, TruncatedFile, UnsupportedModel

LENGTH_BYTES = 8  # with which a file begins: how long its header is
MAX_HEADER_BYTES = 100_000_000  # the reference implementation allows no more
MAX_DIMS = 8

# Bytes of an element of each type that the format has.
ELEMENT_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I64": 8, "I32": 4, "I16": 2,
    "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip


class StoredTensor(NamedTuple):
    """One tensor of a file.

    Attributes:
        dtype: one of ELEMENT_BYTES.
        shape: elements, slowest dimension first.
        data: uint8 [bytes], read-only view of the mapped file.
    """

    dtype: str
    shape: tuple[int, ...]
    data: NDArray[np.uint8]


class SafetensorsFile:
    """One mapped file with its header parsed.

    Attributes:
        path: Where it lies.
        tensors: By name; all inside the file and disjoint.

    Raises:
        TruncatedFile: It ends before what it promises.
        UnsupportedModel: A type of elements that the format does not have.
        CheckpointError: No such file, another kind of file, or it contradicts itself.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                if file.seek(0, os.SEEK_END) < 8:
                    self.fail("is no safetensors file: it has less than 8 bytes. Download it again", TruncatedFile)
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            self.fail(f"cannot be opened: {error.strerror or error}")
        content = np.frombuffer(mapped, np.uint8)
        length = int.from_bytes(mapped[:8], "little")
        if length > MAX_HEADER_BYTES:
            what = "a git-lfs pointer: run `git lfs pull`" if mapped[:8] == b"version " else "damaged, or another kind"
            self.fail(f"is no safetensors file, its header would have {length} bytes: {what}")
        if 8 + length > len(mapped):
            self.fail(
                f"ends at byte {len(mapped)}, its header reaches to {8 + length}: download it again", TruncatedFile
            )
        header = self._parsed(mapped[8 : 8 + length])
        header.pop("__metadata__", None)
        body = content[8 + length :]
        self.tensors = {name: self._tensor(name, entry, body) for name, entry in header.items()}
        ranges = sorted((*entry["data_offsets"], name) for name, entry in header.items())
        for (_, end, left), (start, _, right) in pairwise(ranges):
            if end > start:
                self.fail(f"tensors {left!r} and {right!r} overlap: the file is damaged")

    def fail(self, problem: str, error: type[CheckpointError] = CheckpointError) -> NoReturn:
        raise error(f"{self.path}: {problem}")

    def _parsed(self, text: bytes) -> dict[str, Any]:
        try:
            header = json.loads(text)
        except (ValueError, RecursionError) as error:
            self.fail(f"its header is no JSON ({error}): the file is damaged")
        if not isinstance(header, dict):
            self.fail("its header is no JSON object: the file is damaged")
        return header

    def _tensor(self, name: str, entry: Any, body: NDArray[np.uint8]) -> StoredTensor:
        try:
            dtype, shape, (start, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        except (TypeError, KeyError, ValueError):
            self.fail(f"tensor {name!r:.80} is described by {entry!r:.80}: the file is damaged")
        sizes = (*shape, start, end)
        if len(shape) > MAX_DIMS or any(type(size) is not int or not 0 <= size < 1 << 62 for size in sizes):
            self.fail(f"tensor {name!r:.80} is described by {entry!r:.80}: the file is damaged")
        if dtype not in ELEMENT_BYTES:
            self.fail(
                f"tensor {name!r:.80} has elements of type {dtype!r:.20}; known are {', '.join(ELEMENT_BYTES)}",
                UnsupportedModel,
            )
        needed = math.prod(shape) * ELEMENT_BYTES[dtype]
        if end - start != needed:
            self.fail(f"tensor {name!r:.80} of {dtype} {shape} needs {needed} bytes, it has {end - start}: damaged")
        if end > len(body):
            self.fail(
                f"ends {end - len(body)} bytes before tensor {name!r:.80} does: unfinished, download it again",
                TruncatedFile,
            )
        return StoredTensor(dtype, shape, body[start:end])
