"""Which layout the CPU's weights have in memory: rows as the file maps them, or a copy in panels of interleaved rows.

Panels are read faster, and drafts and prompts cost less in them. The copy takes as much memory as the weights; while it
is made, the pages of the file that have been read are let go, piece by piece.
"""

import ctypes
import mmap
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
import psutil
from numpy.typing import NDArray

import experts
from experts import Matrix, MatrixStack

from .errors import OptionError
from .gguf import Tensor

LAYOUTS = ("auto", "native", "interleaved")
MARGIN_BYTES = 2 << 30  # what "auto" leaves free
LOOKED_UP = ("token_embd.weight", ".nextn.embed_tokens.weight")  # rows of these are decoded one by one

_LETS_GO = 4  # MADV_DONTNEED

Weights = TypeVar("Weights", Matrix, MatrixStack)


class Layout:
    """Takes weights to their layout while they are loaded.

    Attributes:
        copied_bytes: How much has been copied so far, and in `seconds`.
    """

    def __init__(self, interleaved: Iterable[str], reason: str) -> None:
        self._interleaved, self._reason = frozenset(interleaved), reason
        self.copied_bytes, self.seconds = 0, 0.0

    def take(self, name: str, weights: Weights) -> Weights:
        """The weights of a tensor in the layout that was chosen for it."""
        if name not in self._interleaved:
            return weights
        started = time.perf_counter()
        start = weights.address
        target = _memory(weights.data.size)
        result = experts.interleave(weights, target, lambda first, last: _let_go(start + first, start + last))
        self.copied_bytes += target.size
        self.seconds += time.perf_counter() - started
        return result

    def __str__(self) -> str:
        cost = f", {self.copied_bytes / 1e9:.1f} GB copied in {self.seconds:.1f} s" if self.copied_bytes else ""
        return self._reason + cost


def choose_layout(choice: str, tensors: Mapping[str, Tensor]) -> Layout:
    """The layout of the CPU's tensors.

    Args:
        choice: one of LAYOUTS; "auto" interleaves where the copy fits into free memory.
        tensors: those that the CPU computes with.

    Raises:
        OptionError: Unknown choice, or a copy that does not fit.
    """
    if choice not in LAYOUTS:
        raise OptionError(f"layout is {choice!r}; choose one of {', '.join(LAYOUTS)}")
    packed = any(tensor.interleaved for tensor in tensors.values())
    copied = {name: tensor.num_bytes for name, tensor in tensors.items() if _can_be_copied(name, tensor)}
    need, free = sum(copied.values()), free_memory()
    if choice == "native" or not copied:
        why = "" if choice == "native" else ", in formats that have no other layout"
        return Layout((), "interleaved in the file" if packed else f"native: rows as the file has them{why}")
    if need + MARGIN_BYTES <= free or (choice == "interleaved" and need <= free):
        return Layout(copied, "interleaved")
    shortage = f"a copy needs {need / 1e9:.1f} GB, {free / 1e9:.1f} GB are free"
    if choice == "interleaved":
        raise OptionError(f"layout interleaved does not fit: {shortage}. Use --layout native, or moe-offload pack")
    return Layout((), f"native: rows as the file has them ({shortage})")


def _can_be_copied(name: str, tensor: Tensor) -> bool:
    if tensor.interleaved or len(tensor.shape) < 2 or name.endswith(LOOKED_UP):
        return False
    return experts.can_interleave(experts.format_of(tensor.ggml_type), tensor.shape[-2])


def free_memory() -> int:
    """Bytes that can be had without swapping, within the limit of this process's control group."""
    free = int(psutil.virtual_memory().available)
    folder = Path("/sys/fs/cgroup")
    try:
        limit, used = (int((folder / name).read_text()) for name in ("memory.max", "memory.current"))
    except (OSError, ValueError):  # no control group, or no limit
        return free
    return min(free, max(0, limit - used))


def _memory(num_bytes: int) -> NDArray[np.uint8]:
    """Fresh memory, in huge pages where the system has them."""
    pages = mmap.mmap(-1, num_bytes)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        pages.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(pages, np.uint8)


def _let_go(first: int, last: int) -> None:
    """The whole pages of a file's mapping between two addresses need not stay in memory."""
    if sys.platform != "linux":
        return
    first, last = -(-first // mmap.PAGESIZE) * mmap.PAGESIZE, last // mmap.PAGESIZE * mmap.PAGESIZE
    if last > first:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), _LETS_GO)
