"""A model as its files have it, whatever their format: metadata under GGUF's keys, tensors under GGUF's names.

Encoded rows come from a `Content`: views of a mapped file, or bytes that are made when they are asked for, a piece at
a time, so that nobody has to hold a whole model.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from .gguf_header import typed_value
from .pages import let_go

T = TypeVar("T")
Bytes = NDArray[np.uint8]

PIECE_BYTES = 32 << 20  # of rows that are made at a time


class Content(Protocol):
    """Where a tensor's encoded rows come from."""

    @property
    def row_bytes(self) -> int: ...

    def rows(self, matrix: int, first: int, last: int) -> Bytes:
        """uint8 (last - first, row_bytes) of one matrix of a stack; a vector is one row."""
        ...

    def release(self, matrix: int, first: int, last: int) -> None:
        """These rows have been used: what was read for them need not stay in memory."""
        ...


@dataclass(frozen=True, eq=False)
class Mapped:
    """Views of mapped files, or arrays in memory: nothing is made, nothing is copied.

    Attributes:
        matrices: uint8 (rows, row_bytes) each, contiguous; one array (matrices, rows, row_bytes), or a list of views.
    """

    matrices: Bytes | Sequence[Bytes]

    @property
    def row_bytes(self) -> int:
        return int(self.matrices[0].shape[1])

    def rows(self, matrix: int, first: int, last: int) -> Bytes:
        view: Bytes = self.matrices[matrix][first:last]
        return view

    def release(self, matrix: int, first: int, last: int) -> None:
        view = self.rows(matrix, first, last)
        if not view.flags.writeable:  # of a file
            start = view.ctypes.data
            let_go(start, start + view.nbytes)


@dataclass(frozen=True)
class Absent:
    """Rows whose size alone is known: the header of a file tells it, or a table of shapes."""

    row_bytes: int

    def rows(self, matrix: int, first: int, last: int) -> Bytes:
        raise AssertionError("nothing but sizes is known of this tensor")

    def release(self, matrix: int, first: int, last: int) -> None:
        """There is nothing to let go."""


@dataclass(frozen=True, eq=False)
class Tensor:
    """One tensor, still encoded.

    Attributes:
        name: As in GGUF files, e.g. "blk.3.ffn_down_exps.weight".
        ggml_type: Block format, an id of `gguf.GGMLQuantizationType` or one of our own.
        shape: Elements, slowest dimension first: (rows, columns) or (experts, rows, columns).
        content: Its encoded rows.
        file_index: Which of `Checkpoint.paths` holds it, or its beginning.
        interleaved: Whether rows lie in panels, as `moe-offload pack` writes them.
    """

    name: str
    ggml_type: int
    shape: tuple[int, ...]
    content: Content
    file_index: int = 0
    interleaved: bool = False

    @property
    def num_matrices(self) -> int:
        return math.prod(self.shape[:-2])

    @property
    def num_rows(self) -> int:
        """Of one matrix."""
        return self.shape[-2] if len(self.shape) > 1 else 1

    @property
    def num_bytes(self) -> int:
        return self.num_matrices * self.num_rows * self.content.row_bytes

    @property
    def is_mapped(self) -> bool:
        """Whether its bytes lie in a file as they are, opened or not."""
        return isinstance(self.content, Mapped | Absent)

    @property
    def data(self) -> Bytes:
        """uint8 [num_bytes]; a view where they lie together in a file, else a copy of all of it."""
        if isinstance(self.content, Mapped) and isinstance(self.content.matrices, np.ndarray):
            return self.content.matrices.reshape(-1)
        return np.concatenate([piece.reshape(-1) for _, _, piece in self.pieces()])

    def pieces(self, multiple: int = 1) -> Iterator[tuple[int, int, Bytes]]:
        """All rows in order: matrix, first row, and uint8 (rows, row_bytes) of at most about PIECE_BYTES.

        Args:
            multiple: pieces begin at multiples of so many rows.
        """
        step = max(1, PIECE_BYTES // (self.content.row_bytes * multiple)) * multiple
        for matrix in range(self.num_matrices):
            for first in range(0, self.num_rows, step):
                yield matrix, first, self.content.rows(matrix, first, min(first + step, self.num_rows))


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """An opened model: `tensors` in file order, `metadata` of the first part.

    Strings are str, arrays of strings list[str], arrays of numbers numpy arrays.
    """

    paths: tuple[Path, ...]
    metadata: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    def get(self, key: str, kind: type[T], *default: T) -> T:
        """The value of metadata `key`, which must be a `kind` (an int passes for a float).

        Raises:
            CheckpointError: The key is missing and no default is given, or its value is of another type.
        """
        return typed_value(self.metadata, key, kind, *default)
