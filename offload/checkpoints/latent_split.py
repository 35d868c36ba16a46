"""Keys and values of latent attention (MLA), which folders and older GGUF files keep in one matrix, newer ones apart.

The one matrix has for each head the rows of its keys, then those of its values. Apart there are a stack of the keys,
transposed because a query is multiplied with them, and a stack of the values. The values stay in the blocks that they
are in. Blocks of keys would lie across the transposed rows, so quantized keys become float32, without loss.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import experts

from ..errors import CheckpointError
from .checkpoint import Content, Tensor
from .stored import format_of

JOINED = "attn_kv_b.weight"


@dataclass(frozen=True, eq=False)
class SomeRows:
    """For each head `count` rows of a matrix, `first` after its beginning."""

    source: Tensor
    first: int
    count: int
    distance: int

    @property
    def row_bytes(self) -> int:
        return self.source.content.row_bytes

    def rows(self, matrix: int, first: int, last: int) -> NDArray[np.uint8]:
        start = matrix * self.distance + self.first
        return self.source.content.rows(0, start + first, start + last)

    def release(self, matrix: int, first: int, last: int) -> None:
        """Other heads' rows lie on the same pages."""


@dataclass(frozen=True, eq=False)
class Dequantized:
    """Encoded rows as float32."""

    source: Content
    format: experts.Format
    columns: int

    @property
    def row_bytes(self) -> int:
        return 4 * self.columns

    def rows(self, matrix: int, first: int, last: int) -> NDArray[np.uint8]:
        stored = np.ascontiguousarray(self.source.rows(matrix, first, last))
        return experts.dequantize(experts.Matrix(self.format, last - first, self.columns, stored)).view(np.uint8)

    def release(self, matrix: int, first: int, last: int) -> None:
        self.source.release(matrix, first, last)


@dataclass(frozen=True, eq=False)
class TransposedFloats:
    """The matrices of a stack of floats, transposed."""

    source: Content
    num_rows: int  # of a matrix before it is transposed
    element_bytes: int

    @property
    def row_bytes(self) -> int:
        return self.num_rows * self.element_bytes

    def rows(self, matrix: int, first: int, last: int) -> NDArray[np.uint8]:
        stored = np.ascontiguousarray(self.source.rows(matrix, 0, self.num_rows))
        elements = stored.view(f"u{self.element_bytes}")[:, first:last]
        return np.ascontiguousarray(elements.T).view(np.uint8)

    def release(self, matrix: int, first: int, last: int) -> None:
        """Other heads' rows lie on the same pages."""


def split(joined: Tensor, num_heads: int, key_rows: int) -> list[Tensor]:
    """The keys' stack (heads, columns, key_rows) and the values' (heads, rest of a head's rows, columns).

    Args:
        joined: a matrix in any format; where it is none of floats, the keys become float32.

    Raises:
        CheckpointError: the rows cannot be those of so many heads.
    """
    num_rows, columns = (1, *joined.shape)[-2:]
    if len(joined.shape) != 2 or num_heads < 1 or num_rows % num_heads or not 0 < key_rows < num_rows // num_heads:
        raise CheckpointError(
            f"tensor {joined.name} has shape {joined.shape}; each of {num_heads} heads needs {key_rows} rows of keys "
            "and some of values"
        )
    distance, fmt = num_rows // num_heads, format_of(joined)
    keys: Content = SomeRows(joined, 0, key_rows, distance)
    values = SomeRows(joined, key_rows, distance - key_rows, distance)
    floats = fmt if fmt.block_weights == 1 else experts.FORMATS["F32"]
    if floats is not fmt:
        keys = Dequantized(keys, fmt, columns)

    def tensor(name: str, kind: experts.Format, shape: tuple[int, ...], content: Content) -> Tensor:
        return Tensor(joined.name.removesuffix(JOINED) + name, kind.ggml_type, shape, content, joined.file_index)

    transposed = TransposedFloats(keys, key_rows, floats.block_bytes)
    return [
        tensor("attn_k_b.weight", floats, (num_heads, columns, key_rows), transposed),
        tensor("attn_v_b.weight", fmt, (num_heads, distance - key_rows, columns), values),
    ]
