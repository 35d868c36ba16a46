"""Takes the CPU's weights to their layout: rows as the file maps them, or a copy in panels of interleaved rows.

Panels are read faster, and drafts and prompts cost less in them. The copy takes as much memory as the weights, or more
where codebooks are expanded in it; while it is made, the pages of the file that have been read are let go, piece by
piece.
"""

import time
from collections.abc import Mapping
from typing import TypeVar

import numpy as np

import experts
from experts import Matrix, MatrixStack, Stack

from ..checkpoints.checkpoint import Tensor
from ..checkpoints.pages import let_go
from ..checkpoints.stored import as_matrix, as_stack, format_of
from ..hardware.limits import free_memory
from ..hardware.probe import read_bytes_per_s
from ..huge_pages import fresh_memory
from .layout_choice import Host, LayoutChoice, chosen_layout, mapped_bytes

Weights = TypeVar("Weights", Matrix, MatrixStack)


class Layout:
    """Takes weights to their layout while they are loaded.

    Attributes:
        choice: Which layout that is.
        copied_bytes: How much has been copied so far, and in `seconds`.
    """

    def __init__(self, choice: LayoutChoice) -> None:
        self.choice, self.copied_bytes, self.seconds = choice, 0, 0.0

    def matrix(self, tensor: Tensor) -> Matrix:
        """A matrix in the layout that was chosen for it."""
        return self._taken(tensor.name, as_matrix(tensor)) if tensor.is_mapped else self._made(tensor)[0]

    def stack(self, tensor: Tensor) -> Stack:
        """Experts in the layout that was chosen for them."""
        if not tensor.is_mapped:
            return self._made(tensor)
        stack = as_stack(tensor)
        return self._taken(tensor.name, stack) if isinstance(stack, MatrixStack) else stack

    def _taken(self, name: str, weights: Weights) -> Weights:
        if name not in self.choice.interleaved:
            return weights
        started = time.perf_counter()
        start = weights.address
        expanded = name in self.choice.added_bytes
        target = fresh_memory(experts.expanded_bytes(weights) if expanded else weights.data.size)
        take = experts.expand if expanded else experts.interleave
        result = take(weights, target, lambda first, last: let_go(start + first, start + last))
        self._count(target.size, started)
        return result

    def _made(self, tensor: Tensor) -> MatrixStack:
        """Weights that have to be made, piece by piece in memory of their own."""
        started, interleaved = time.perf_counter(), tensor.name in self.choice.interleaved
        fmt, columns = format_of(tensor), tensor.shape[-1]
        target = fresh_memory(tensor.num_bytes).reshape(tensor.num_matrices, tensor.num_rows, -1)
        for matrix, first, piece in tensor.pieces(experts.PANEL_ROWS):
            part = target[matrix, first : first + len(piece)]
            if interleaved:
                experts.interleave(Matrix(fmt, len(piece), columns, np.ascontiguousarray(piece)), part.reshape(-1))
            else:
                part[:] = piece
            tensor.content.release(matrix, first, first + len(piece))
        self._count(target.size, started)
        return MatrixStack(fmt, tensor.num_rows, columns, target, interleaved)

    def _count(self, num_bytes: int, started: float) -> None:
        self.copied_bytes += num_bytes
        self.seconds += time.perf_counter() - started

    def __str__(self) -> str:
        cost = f", {self.copied_bytes / 1e9:.1f} GB copied in {self.seconds:.1f} s" if self.copied_bytes else ""
        return self.choice.reason + cost


def choose_layout(
    choice: str, tensors: Mapping[str, Tensor], ram: int | None = None, reserved_bytes: int = 0
) -> Layout:
    """The layout of the CPU's tensors on this machine; see `chosen_layout`.

    Args:
        choice: one of LAYOUTS.
        tensors: those that the CPU computes with.
        ram: bytes that they may take, None for all that are free.
        reserved_bytes: of free memory, for caches.

    Raises:
        OptionError: Unknown choice, or a copy that does not fit.
    """
    budget = None if ram is None else ram - mapped_bytes(tensors)
    free = max(0, free_memory() - reserved_bytes)
    return Layout(chosen_layout(choice, tensors, Host(free, experts.num_threads(), read_bytes_per_s, budget)))
