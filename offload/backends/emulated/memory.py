"""The memory of the emulated device: it fills up as tensors are made, and an allocation beyond its size fails."""

import weakref

import torch
from torch import Tensor


class Memory:
    """Counts the bytes of all storages that emulated tensors stand on.

    The count goes up when a storage is first seen and down when its last tensor is gone, as in a caching allocator that
    never fragments.
    """

    def __init__(self) -> None:
        self.limit_bytes: int | None = None  # without limit
        self.used_bytes = 0
        self.peak_bytes = 0
        self._held: weakref.WeakValueDictionary[int, _Held] = weakref.WeakValueDictionary()

    def hold(self, host: Tensor) -> "_Held":
        """Counts the storage of a tensor for as long as what is returned lives.

        Raises:
            torch.OutOfMemoryError: there is no room for it.
        """
        storage = host.untyped_storage()
        held = self._held.get(storage._cdata)
        if held is None:
            num_bytes = storage.nbytes()
            if self.limit_bytes is not None and self.used_bytes + num_bytes > self.limit_bytes:
                raise torch.OutOfMemoryError(
                    f"tried to allocate {num_bytes:,} bytes, {self.used_bytes:,} of {self.limit_bytes:,} are in use"
                )
            held = self._held[storage._cdata] = _Held(self, num_bytes)
        return held


class _Held:
    """The room that one storage takes."""

    def __init__(self, memory: Memory, num_bytes: int):
        self._memory, self._num_bytes = memory, num_bytes
        memory.used_bytes += num_bytes
        memory.peak_bytes = max(memory.peak_bytes, memory.used_bytes)

    def __del__(self) -> None:
        self._memory.used_bytes -= self._num_bytes
