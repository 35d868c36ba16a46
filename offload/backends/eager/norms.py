"""RMSNorm, and rotary embedding of heads, on a torch device.

Shapes: T rows, D features, H heads, C head size, P = pairs of dimensions that are rotated, S positions.
"""

import torch
from torch import Tensor

from .exact import fixed_sum


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension."""
    mean = fixed_sum(x * x) / x.shape[-1]
    return x * (1.0 / torch.sqrt(mean + eps))[..., None] * weight


def head_norm_rope(x_THC: Tensor, positions_T: Tensor, table: Tensor, norm_C: Tensor | None, eps: float) -> Tensor:
    """Norms each head (where there is a norm) and rotates its first dimensions in NEOX style.

    Args:
        table: cos and sin of every angle, float32 (S, 2, P).
    """
    if norm_C is not None:
        x_THC = rms_norm(x_THC, norm_C, eps)
    P = table.shape[2]
    cos, sin = table[positions_T][:, :, None].unbind(1)  # (T, 1, P) each
    first, second, rest = x_THC[..., :P], x_THC[..., P : 2 * P], x_THC[..., 2 * P :]
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], -1)
