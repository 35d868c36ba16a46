"""What stands between products: SwiGLU's gate, and the weighted sum of experts.

Shapes: T rows, D features, K experts per row.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import Kernel, ceil_div

BLOCK = 1024


@triton.jit
def silu_times_kernel(gate, up, out, size, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(gate + i, i < size, 0.0)
    y = tl.load(up + i, i < size, 0.0)
    tl.store(out + i, tl.div_rn(x, 1.0 + tl.exp(-x)) * y, i < size)


@triton.jit
def weighted_sums_kernel(parts, weights, out, D, K, BLOCK: tl.constexpr):
    """One row and block of features; experts are added in the order in which the row lists them."""
    row = tl.program_id(0)
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    for k in range(K):
        part = tl.load(parts + (row * K + k) * D + i, i < D, 0.0)
        total = tl.fma(part, tl.zeros_like(part) + tl.load(weights + row * K + k), total)
    tl.store(out + row * D + i, total, i < D)


_silu_times, _weighted_sums = Kernel(silu_times_kernel), Kernel(weighted_sums_kernel)


def silu_times(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up."""
    out = torch.empty_like(gate)
    size = gate.numel()
    _silu_times((ceil_div(size, BLOCK),), gate, up, out, size, constants=(BLOCK,))
    return out


def weighted_sums(parts: Tensor, weights_TK: Tensor) -> Tensor:
    """Parts (T x K, D) of K experts a row, weighted and added: (T, D)."""
    (T, K), D = weights_TK.shape, parts.shape[1]
    out = parts.new_empty((T, D))
    _weighted_sums((T, ceil_div(D, BLOCK)), parts, weights_TK, out, D, K, constants=(BLOCK,))
    return out
