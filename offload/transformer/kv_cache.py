"""Keys and values of every sequence, layer by layer; how they lie in memory is the business of `experts.attention`.

Shapes: T rows, G key-value heads, C head size. Rows are written at their
position, and a row sees only positions up to its own. So taking rejected drafts back is to forget them: a sequence
only counts how many positions are its own, and the next row at a position overwrites what stood there before anything
can see it.
"""

import numpy as np

from experts.attention import CACHE_TYPES, CacheType, KeysValues, storage_shapes, write_rows
from experts.attention.latent import LatentRows, latent_shape, write_latent
from experts.attention.storage import BLOCK

from ..errors import OptionError
from .rows import Rows, check_room

__all__ = ["CACHE_TYPES", "KvCache", "LatentCache"]


class KvCache:
    """A cache of fixed size for a number of slots, on the host.

    Raises:
        OptionError: the type is unknown, or cannot hold heads of this size.
    """

    def __init__(
        self, num_layers: int, num_slots: int, num_kv_heads: int, num_positions: int, head_size: int, kind: str
    ):
        self.type = _type(kind)
        self.num_positions = num_positions
        try:
            shapes = storage_shapes(self.type, (num_layers, num_slots, num_kv_heads), num_positions, head_size)
        except ValueError as error:
            raise OptionError(str(error)) from None
        # zeros come from the system page by page as they are first written, so an unused context costs nothing
        self.keys, self.values = (np.zeros(shape, np.uint8) for shape in shapes)
        self.layers = [KeysValues(self.type, head_size, k, v) for k, v in zip(self.keys, self.values, strict=True)]

    @property
    def bytes_per_token(self) -> int:
        """Bytes that one position takes over all layers."""
        num_layers, _, num_kv_heads = self.values.shape[:3]
        return 2 * num_layers * num_kv_heads * self.type.row_bytes(self.layers[0].head_size)

    def write(self, layer: int, rows: Rows, k_TGC: np.ndarray, v_TGC: np.ndarray) -> None:
        """Stores the rows' keys and values.

        Raises:
            ContextFull: a position lies outside the cache; nothing is written then.
        """
        check_room(rows, self.num_positions)
        write_rows(k_TGC, v_TGC, self.layers[layer], rows.slots, rows.positions)

    def copy_slot(self, source: int, target: int, num_positions: int) -> None:
        """Copies the first positions of a slot to another, as they stand; what lies behind them there is undefined."""
        num_blocks = -(-num_positions // BLOCK)
        self.keys[:, target, :, :num_blocks] = self.keys[:, source, :, :num_blocks]
        self.values[:, target, :, :num_positions] = self.values[:, source, :, :num_positions]


class LatentCache:
    """A cache of compressed keys and values: one row of elements for a position and layer, whatever the heads.

    Raises:
        OptionError: the type is unknown, or cannot hold rows of this size.
    """

    def __init__(self, num_layers: int, num_slots: int, num_positions: int, row_size: int, kind: str):
        self.type = _type(kind)
        self.num_positions = num_positions
        try:
            shape = latent_shape(self.type, (num_layers, num_slots), num_positions, row_size)
        except ValueError as error:
            raise OptionError(str(error)) from None
        self.layers = [LatentRows(self.type, row_size, rows) for rows in np.zeros(shape, np.uint8)]

    @property
    def bytes_per_token(self) -> int:
        """Bytes that one position takes over all layers."""
        return len(self.layers) * self.type.row_bytes(self.layers[0].row_size)

    def write(self, layer: int, rows: Rows, x_TC: np.ndarray) -> None:
        """Stores the rows.

        Raises:
            ContextFull: a position lies outside the cache; nothing is written then.
        """
        check_room(rows, self.num_positions)
        write_latent(x_TC, self.layers[layer], rows.slots, rows.positions)

    def copy_slot(self, source: int, target: int, num_positions: int) -> None:
        """Copies the first positions of a slot to another, as they stand; what lies behind them there is undefined."""
        num_blocks = -(-num_positions // BLOCK)
        for layer in self.layers:
            layer.rows[target, :num_blocks] = layer.rows[source, :num_blocks]


def _type(kind: str) -> CacheType:
    if kind not in CACHE_TYPES:
        raise OptionError(f"cache type {kind!r} is unknown; choose one of {', '.join(CACHE_TYPES)}")
    return CACHE_TYPES[kind]
