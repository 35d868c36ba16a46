"""How a layer's latent rows are kept."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from experts.attention.storage import BLOCK, CacheType, KeysValues, storage_shapes


@dataclass(frozen=True, eq=False)
class LatentRows:
    """The latent rows of one layer.

    Attributes:
        type: How elements are encoded, one of CACHE_TYPES.
        row_size: C, elements of a row, a multiple of 16.
        rows: uint8 (N, B, 16 * row bytes), C-contiguous, B even: N slots, B blocks of 16 positions.

    Raises:
        ValueError: A shape, type or layout is wrong.
    """

    type: CacheType
    row_size: int
    rows: NDArray[np.uint8]

    @cached_property
    def as_keys_values(self) -> KeysValues:
        """The same bytes as keys and as values of a single head, for the kernels in this folder."""
        kind = CacheType(f"latent.{self.type.name}", self.type.group, self.type.group_bytes)
        keys = self.rows[:, None]
        N, B, block_bytes = self.rows.shape
        return KeysValues(kind, self.row_size, keys, self.rows.reshape(N, 1, BLOCK * B, block_bytes // BLOCK))

    def __post_init__(self) -> None:
        assert self.as_keys_values  # checks the shapes

    @property
    def num_positions(self) -> int:
        """Positions that there is room for."""
        return int(self.rows.shape[1]) * BLOCK


def latent_shape(kind: CacheType, leading: tuple[int, ...], num_positions: int, row_size: int) -> tuple[int, ...]:
    """Shape of the rows with room for at least `num_positions`.

    Raises:
        ValueError: The type cannot hold rows of this size.
    """
    return storage_shapes(kind, leading, num_positions, row_size)[0]
