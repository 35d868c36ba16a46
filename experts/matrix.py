"""Encoded weight matrices: N rows of `columns` weights, zero-copy over bytes that belong to someone else."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experts.formats import FORMATS, Format, row_bytes


def address_of(array: NDArray[Any]) -> int:
    """Where the first element lies; several times faster than `array.ctypes.data`."""
    return int(array.__array_interface__["data"][0])


@dataclass(frozen=True, eq=False)
class Matrix:
    """One encoded matrix.

    Attributes:
        format: How the weights are stored.
        rows: N, outputs of a product.
        columns: Weights of a row, inputs of a product.
        data: uint8 (N, row_bytes), C-contiguous; may be read-only and lie at any address, as in a file mapping.
        interleaved: Whether the rows lie in panels (see layout.py) instead of one after the other.

    Raises:
        ValueError: The bytes do not have this shape.
    """

    format: Format
    rows: int
    columns: int
    data: NDArray[np.uint8]
    interleaved: bool = False

    def __post_init__(self) -> None:
        _check_bytes(self.data, (self.rows, row_bytes(self.format, self.columns)))

    @classmethod
    def from_bytes(cls, fmt: Format, rows: int, columns: int, data: Any) -> "Matrix":
        """Over any buffer with exactly the bytes of rows * columns weights, without a copy."""
        return cls(fmt, rows, columns, _as_bytes(data, (rows, row_bytes(fmt, columns))))

    @classmethod
    def from_dense(cls, values: NDArray[np.float32]) -> "Matrix":
        """As F32, over a float32 (N, columns) array."""
        dense = np.ascontiguousarray(values, dtype=np.float32)
        rows, columns = dense.shape
        return cls.from_bytes(FORMATS["F32"], rows, columns, dense)

    @cached_property
    def address(self) -> int:
        """Where the first row begins."""
        return address_of(self.data)

    @cached_property
    def _addresses(self) -> NDArray[np.int64]:
        return np.array([self.address], np.int64)

    @cached_property
    def address_table(self) -> int:
        """Where that address stands in memory."""
        return address_of(self._addresses)

    @property
    def row_bytes(self) -> int:
        return int(self.data.shape[1])


@dataclass(frozen=True, eq=False)
class MatrixStack:
    """One matrix for each expert, all of one format and shape.

    Attributes:
        data: uint8 (E, rows, row_bytes); rows are contiguous, experts may be any distance apart.
        interleaved: Whether the rows of a matrix lie in panels (see layout.py) instead of one after the other.
    """

    format: Format
    rows: int
    columns: int
    data: NDArray[np.uint8]
    interleaved: bool = False

    def __post_init__(self) -> None:
        if self.data.ndim != 3:
            raise ValueError(f"a stack is uint8 (experts, rows, row bytes), not of shape {self.data.shape}")
        for matrix in self.data[:1]:
            _check_bytes(matrix, (self.rows, row_bytes(self.format, self.columns)))

    @classmethod
    def from_bytes(cls, fmt: Format, experts: int, rows: int, columns: int, data: Any) -> "MatrixStack":
        """Over any buffer with exactly the bytes of experts * rows * columns weights, without a copy."""
        return cls(fmt, rows, columns, _as_bytes(data, (experts, rows, row_bytes(fmt, columns))))

    @classmethod
    def from_dense(cls, values: NDArray[np.float32]) -> "MatrixStack":
        """As F32, over a float32 (E, rows, columns) array."""
        dense = np.ascontiguousarray(values, dtype=np.float32)
        experts, rows, columns = dense.shape
        return cls.from_bytes(FORMATS["F32"], experts, rows, columns, dense)

    def __len__(self) -> int:
        return int(self.data.shape[0])

    def __getitem__(self, expert: int) -> Matrix:
        return Matrix(self.format, self.rows, self.columns, self.data[expert], self.interleaved)

    @cached_property
    def address(self) -> int:
        """Where the first row of the first expert begins."""
        return address_of(self.data)

    @property
    def row_bytes(self) -> int:
        return int(self.data.shape[2])

    @property
    def matrix_bytes(self) -> int:
        """Bytes of one expert's matrix."""
        return self.rows * self.row_bytes

    @cached_property
    def _addresses(self) -> NDArray[np.int64]:
        return self.address + int(self.data.strides[0]) * np.arange(len(self), dtype=np.int64)

    @cached_property
    def address_table(self) -> int:
        """Where the addresses of the matrices stand in memory, an int64 each."""
        return address_of(self._addresses)


@dataclass(frozen=True, eq=False)
class ScatteredStack:
    """One matrix for each expert, each wherever it lies: files may keep them as tensors of their own.

    Attributes:
        matrices: all of one format, shape and layout.

    Raises:
        ValueError: They differ, or there are none.
    """

    matrices: tuple[Matrix, ...]

    def __post_init__(self) -> None:
        kinds = {(m.format, m.rows, m.columns, m.interleaved) for m in self.matrices}
        if len(kinds) != 1:
            raise ValueError(f"a stack has matrices of one format, shape and layout, not of {len(kinds)}")

    def __len__(self) -> int:
        return len(self.matrices)

    def __getitem__(self, expert: int) -> Matrix:
        return self.matrices[expert]

    @property
    def format(self) -> Format:
        return self.matrices[0].format

    @property
    def rows(self) -> int:
        return self.matrices[0].rows

    @property
    def columns(self) -> int:
        return self.matrices[0].columns

    @property
    def interleaved(self) -> bool:
        return self.matrices[0].interleaved

    @property
    def row_bytes(self) -> int:
        return self.matrices[0].row_bytes

    @property
    def matrix_bytes(self) -> int:
        """Bytes of one expert's matrix."""
        return self.rows * self.row_bytes

    @cached_property
    def _addresses(self) -> NDArray[np.int64]:
        return np.array([matrix.address for matrix in self.matrices], np.int64)

    @cached_property
    def address_table(self) -> int:
        """Where the addresses of the matrices stand in memory, an int64 each."""
        return address_of(self._addresses)

    def gathered(self) -> MatrixStack:
        """A copy with the matrices one after the other."""
        data = np.stack([matrix.data for matrix in self.matrices])
        return MatrixStack(self.format, self.rows, self.columns, data, self.interleaved)


Stack = MatrixStack | ScatteredStack


def _check_bytes(data: NDArray[np.uint8], shape: tuple[int, int]) -> None:
    if data.dtype != np.uint8 or data.shape != shape or not data.flags.c_contiguous:
        layout = "contiguous" if data.flags.c_contiguous else "strided"
        raise ValueError(f"encoded rows are contiguous uint8 {shape}, not {layout} {data.dtype} {data.shape}")


def _as_bytes(data: Any, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    flat: NDArray[np.uint8] = (
        data.reshape(-1).view(np.uint8) if isinstance(data, np.ndarray) else np.frombuffer(data, np.uint8)
    )
    needed = int(np.prod(shape))
    if flat.size != needed:
        raise ValueError(f"{needed} bytes are needed for encoded rows of shape {shape}, {flat.size} given")
    return flat.reshape(shape)
