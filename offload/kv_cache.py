"""Keys and values of every sequence, layer by layer.

Shapes: L layers, N slots (sequences), G key-value heads, S positions, C head size. Rows are written at their
position, and a row sees only positions up to its own. So taking rejected drafts back is to forget them: a sequence
only counts how many positions are its own, and the next row at a position overwrites what stood there before anything
can see it.
"""

import numpy as np

from .errors import ContextFull, OptionError
from .rows import Rows

CACHE_TYPES = {"f16": np.float16, "f32": np.float32}


class KvCache:
    """A cache of fixed size for a number of slots, on the host."""

    def __init__(
        self, num_layers: int, num_slots: int, num_kv_heads: int, num_positions: int, head_size: int, kind: str
    ):
        if kind not in CACHE_TYPES:
            raise OptionError(f"cache type {kind!r} is unknown; choose one of {', '.join(CACHE_TYPES)}")
        shape = (num_layers, num_slots, num_kv_heads, num_positions, head_size)
        # zeros come from the system page by page as they are first written, so an unused context costs nothing
        self.k_LNGSC = np.zeros(shape, CACHE_TYPES[kind])
        self.v_LNGSC = np.zeros(shape, CACHE_TYPES[kind])

    @property
    def num_positions(self) -> int:
        return self.k_LNGSC.shape[3]

    @property
    def bytes_per_token(self) -> int:
        """Bytes that one position takes over all layers."""
        num_layers, _, num_kv_heads, _, head_size = self.k_LNGSC.shape
        return 2 * num_layers * num_kv_heads * head_size * self.k_LNGSC.itemsize

    def write(self, layer: int, rows: Rows, k_TGC: np.ndarray, v_TGC: np.ndarray) -> None:
        """Stores the rows' keys and values.

        Raises:
            ContextFull: a position lies outside the cache; nothing is written then.
        """
        if len(rows) and rows.positions.max() >= self.num_positions:
            raise ContextFull(
                f"position {rows.positions.max()} is outside the context of {self.num_positions}: raise --context"
            )
        # positions and slots are separated by a slice, so numpy puts the row index first: (T, G, C)
        self.k_LNGSC[layer][rows.slots, :, rows.positions] = k_TGC
        self.v_LNGSC[layer][rows.slots, :, rows.positions] = v_TGC
