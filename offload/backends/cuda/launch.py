"""Launching kernels of triton, thousands of times a second.

Triton compiles a kernel anew for other constants, and for pointers and integers that are multiples of 16, are 1 or are
wide. It works out at each launch which variant that is, which takes longer than most kernels of a step run; here it is
one look into a table.
"""

from typing import Any

import triton
from torch import Tensor


class Kernel:
    """A function of triton with its options; multiplications and additions are fused only where it says so."""

    def __init__(self, function: Any, warps: int = 4):
        self._function, self._options = function, {"num_warps": warps, "enable_fp_fusion": False}
        self._is_compiled = isinstance(function, triton.JITFunction)  # else the interpreter runs it
        self._variants: dict[tuple[Any, ...], Any] = {}

    def __call__(self, grid: tuple[int, ...], *arguments: Any, constants: tuple[Any, ...]) -> None:
        """Queues it on the current stream.

        Args:
            grid: programs along each axis.
            arguments: tensors, integers and floats, the first a tensor; their types are the same at every call.
            constants: the function's last arguments, which it is compiled for.
        """
        variant = (arguments[0].get_device(), constants, *map(_kind, arguments))
        if variant in self._variants:
            self._variants[variant][(*grid, 1, 1)[:3]](*arguments, *constants)
            return
        kernel = self._function[grid](*arguments, *constants, **self._options)
        if self._is_compiled:
            self._variants[variant] = kernel


def _kind(argument: Any) -> int:
    """What triton distinguishes of an argument."""
    if isinstance(argument, Tensor):
        return int(argument.data_ptr() & 15 == 0)
    if isinstance(argument, int):
        return (argument & 15 == 0) + 2 * (argument == 1) + 4 * (argument >> 31 != 0)
    return 0


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def power_of_two(size: int) -> int:
    """The size, or the next power of two: triton's blocks have no other lengths."""
    return 1 << (size - 1).bit_length()
