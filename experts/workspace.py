"""Scratch memory that is kept from call to call."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_LINE_BYTES = 64
_TABLE_ENTRIES = 4096


class Workspace:
    """Named buffers that only grow, so that repeated calls allocate nothing. Not for concurrent use."""

    def __init__(self) -> None:
        self._buffers: dict[str, tuple[NDArray[np.uint8], int]] = {}
        self._tables = np.zeros(_TABLE_ENTRIES, np.int64)
        self._tables_address = int(self._tables.ctypes.data)
        self._used = 0
        self._large: list[NDArray[np.int64]] = []

    def address(self, name: str, num_bytes: int) -> int:
        """The address of at least `num_bytes`, at a cache line; valid until the name is asked for more."""
        buffer, aligned = self._buffers.get(name, (None, 0))
        if buffer is None or buffer.size < num_bytes + _LINE_BYTES:
            buffer = np.empty(num_bytes + num_bytes // 4 + _LINE_BYTES, np.uint8)
            start = int(buffer.ctypes.data)
            aligned = start + -start % _LINE_BYTES
            self._buffers[name] = (buffer, aligned)
        return aligned

    def table(self, values: Sequence[int] | NDArray[np.int64]) -> int:
        """The address of a copy of `values` as int64, valid until `forget_tables`."""
        first, last = self._used, self._used + len(values)
        if last > _TABLE_ENTRIES:
            self._large.append(np.array(values, np.int64))
            return int(self._large[-1].ctypes.data)
        self._tables[first:last] = values
        self._used = last
        return self._tables_address + 8 * first

    def forget_tables(self) -> None:
        """Makes room for the tables of the next call."""
        self._used = 0
        self._large.clear()
