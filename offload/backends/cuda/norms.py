"""RMSNorm, and rotary embedding of heads: one program for each row or head.

Shapes: T rows, D features, H heads, C head size, P pairs of dimensions that are rotated.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import Kernel, power_of_two


@triton.jit
def inverse_rms(x, size, eps):
    """1 / sqrt(mean(x^2) + eps); x is zero behind its end."""
    return tl.div_rn(1.0, tl.sqrt_rn(tl.div_rn(tl.sum(x * x, 0), size.to(tl.float32)) + eps))


@triton.jit
def rms_norm_kernel(x, weight, out, D, eps, BLOCK: tl.constexpr):
    start = tl.program_id(0) * D
    i = tl.arange(0, BLOCK)
    values = tl.load(x + start + i, i < D, 0.0)
    tl.store(out + start + i, values * inverse_rms(values, D, eps) * tl.load(weight + i, i < D, 0.0), i < D)


@triton.jit
def head_norm_rope_kernel(
    x, norm, table, positions, out, H, C, P, eps, BLOCK: tl.constexpr, HAS_NORM: tl.constexpr
):  # fmt: skip
    """One head: normed, and its first 2 P dimensions rotated in NEOX style (i goes with i + P)."""
    head = tl.program_id(0)
    i = tl.arange(0, BLOCK)
    partner = tl.where(i < P, i + P, tl.where(i < 2 * P, i - P, i))
    own = tl.load(x + head * C + i, i < C, 0.0)
    other = tl.load(x + head * C + partner, i < C, 0.0)
    if HAS_NORM:
        scale = inverse_rms(own, C, eps)
        own = own * scale * tl.load(norm + i, i < C, 0.0)
        other = other * scale * tl.load(norm + partner, i < C, 0.0)
    angles = table + tl.load(positions + head // H) * 2 * P
    cos = tl.load(angles + i % P, i < 2 * P, 1.0)
    sin = tl.load(angles + P + i % P, i < 2 * P, 0.0)
    tl.store(out + head * C + i, own * cos + tl.where(i < P, -other, other) * sin, i < C)


_rms_norm, _head_norm_rope = Kernel(rms_norm_kernel), Kernel(head_norm_rope_kernel, 1)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension."""
    x, D = x.contiguous(), x.shape[-1]
    out = torch.empty_like(x)
    _rms_norm((x.numel() // D,), x, weight, out, D, eps, constants=(power_of_two(D),))
    return out


def head_norm_rope(x_THC: Tensor, positions_T: Tensor, table: Tensor, norm_C: Tensor | None, eps: float) -> Tensor:
    """Norms each head (where there is a norm) and rotates its first dimensions in NEOX style.

    Args:
        positions_T: int64.
        table: cos and sin of every angle, float32 (S, 2, P).
    """
    x_THC = x_THC.contiguous()
    T, H, C = x_THC.shape
    out = torch.empty_like(x_THC)
    norm, P = x_THC if norm_C is None else norm_C, table.shape[2]
    constants = (power_of_two(C), norm_C is not None)
    _head_norm_rope((T * H,), x_THC, norm, table, positions_T, out, H, C, P, eps, constants=constants)
    return out
