"""How a layer's keys and values are kept: types of elements, and where each position lies.

Legend: N slots, G key-value heads, B blocks of 16 positions, C head size.

Values lie row by row, a row of C elements for each position, encoded as ggml encodes rows of that type. Keys lie in
blocks of 16 positions whose elements are transposed: the 16 positions of each element (or pair of bytes) side by side.
One vector then holds the keys of 16 positions, so that their scores add up in its lanes without sums across lanes, and
softmax goes on with the same lanes.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from experts.build import KERNEL

BLOCK = 16  # positions of a block of keys


@dataclass(frozen=True)
class CacheType:
    """How elements are encoded: groups of `group` elements, `group_bytes` each."""

    name: str
    group: int
    group_bytes: int

    def row_bytes(self, elements: int) -> int:
        """Bytes of one position's keys (or values) of one head.

        Raises:
            ValueError: `elements` is no multiple of the group.
        """
        if elements % self.group:
            raise ValueError(
                f"a {self.name} cache needs head sizes that are multiples of {self.group}, not {elements}: "
                "choose another cache type"
            )
        return elements // self.group * self.group_bytes


CACHE_TYPES = {
    "f32": CacheType("f32", 1, 4),
    "f16": CacheType("f16", 1, 2),
    "bf16": CacheType("bf16", 1, 2),
    "q8_0": CacheType("q8_0", 32, 34),  # a float16 scale and 32 signed bytes
}


@dataclass(frozen=True, eq=False)
class KeysValues:
    """Keys and values of one layer.

    Attributes:
        type: How elements are encoded.
        head_size: C, a multiple of 16.
        keys: uint8 (N, G, B, 16 * row bytes), C-contiguous, B even.
        values: uint8 (N, G, 16 * B, row bytes), C-contiguous.

    Raises:
        ValueError: A shape, type or layout is wrong.
    """

    type: CacheType
    head_size: int
    keys: NDArray[np.uint8]
    values: NDArray[np.uint8]

    def __post_init__(self) -> None:
        N, G, B, _ = self.keys.shape
        shapes = storage_shapes(self.type, (N, G), B * BLOCK, self.head_size)
        for name, array, shape in zip(("keys", "values"), (self.keys, self.values), shapes, strict=True):
            if array.dtype != np.uint8 or array.shape != shape or not array.flags.c_contiguous:
                raise ValueError(f"{name} must be contiguous uint8 {shape}, not {array.dtype} {array.shape}")

    def check_heads(self, name: str, values: Any) -> None:
        """float32 (T, heads, C), C-contiguous."""
        if values.dtype != np.float32 or values.ndim != 3 or values.shape[2] != self.head_size:
            wanted = f"float32 (rows, heads, {self.head_size})"
            raise ValueError(f"{name} must be {wanted}, not {values.dtype} {values.shape}")
        if not values.flags.c_contiguous:
            raise ValueError(f"{name} must be C-contiguous, not strides {values.strides}")

    def check_places(self, slots_T: Any, positions_T: Any, rows: int) -> None:
        """int64 (T,) within the cache."""
        limits = (len(self.keys), self.num_positions)
        for name, numbers, limit in zip(("slots", "positions"), (slots_T, positions_T), limits, strict=True):
            if numbers.dtype != np.int64 or numbers.shape != (rows,) or not numbers.flags.c_contiguous:
                raise ValueError(f"{name} must be contiguous int64 ({rows},), not {numbers.dtype} {numbers.shape}")
            if not _within(numbers, limit):
                raise ValueError(f"{name} {numbers.min()}..{numbers.max()} lie outside 0..{limit - 1}")

    @property
    def num_positions(self) -> int:
        """Positions that there is room for."""
        return int(self.values.shape[2])


def storage_shapes(
    kind: CacheType, leading: tuple[int, ...], num_positions: int, head_size: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of keys and values with room for at least `num_positions`; pairs of blocks are always complete.

    Raises:
        ValueError: The type cannot hold heads of this size.
    """
    if head_size % 16:
        raise ValueError(f"head sizes must be multiples of 16, not {head_size}")
    row_bytes = kind.row_bytes(head_size)
    blocks = -(-num_positions // (2 * BLOCK)) * 2
    return (*leading, blocks, BLOCK * row_bytes), (*leading, blocks * BLOCK, row_bytes)


@njit(**KERNEL)
def _within(numbers: Any, limit: int) -> bool:
    """Whether all lie in 0..limit - 1; numpy takes five times as long for one number."""
    found = True
    for number in numbers:
        found &= 0 <= number < limit
    return found
