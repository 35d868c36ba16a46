"""Keys and values of latent attention (MLA), which Hugging Face folders keep in one matrix and GGUF files apart.

`kv_b_proj` has for each head the rows of its keys, then those of its values. GGUF has a stack of the keys, transposed,
because a query is multiplied with them, and a stack of the values.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
        joined: a matrix of floats; FP8 has to be expanded before.

    Raises:
        CheckpointError: the rows cannot be those of so many heads.
    """
    num_rows, columns = joined.shape[-2:]
    if len(joined.shape) != 2 or num_rows % num_heads or num_rows // num_heads <= key_rows:
        raise CheckpointError(
            f"tensor {joined.name} has shape {joined.shape}; each of {num_heads} heads needs {key_rows} rows of keys "
            "and some of values"
        )
    distance, fmt = num_rows // num_heads, format_of(joined)
    keys = SomeRows(joined, 0, key_rows, distance)
    values = SomeRows(joined, key_rows, distance - key_rows, distance)
    prefix = joined.name.removesuffix(JOINED)

    def tensor(name: str, shape: tuple[int, ...], content: Content) -> Tensor:
        return Tensor(prefix + name, joined.ggml_type, shape, content, joined.file_index)

    transposed = TransposedFloats(keys, key_rows, fmt.block_bytes)
    return [
        tensor("attn_k_b.weight", (num_heads, columns, key_rows), transposed),
        tensor("attn_v_b.weight", (num_heads, distance - key_rows, columns), values),
    ]
