"""Sums and exponentials whose bits depend on their operands alone: the same on every device, for every shape and row.

torch's own reductions and exponentials choose their order and their code by shape, alignment and processor. Here all is
built from additions, multiplications and comparisons of single elements, each rounded as IEEE 754 says.
"""

import torch
from torch import Tensor

LOG2_E = 1.4426950408889634
LN2_HIGH, LN2_LOW = 0.693359375, -2.12194440054690583e-4  # n * LN2_HIGH is exact
COEFFICIENTS = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
LIMIT = 87.0  # within it exp is a normal float32


def fixed_sum(x: Tensor, dim: int = -1) -> Tensor:
    """Sum over one dimension: the upper half is added to the lower one until a single element is left.

    Zeros at the end change nothing: 70 elements add up as 128 of which 58 are zero.
    """
    size = x.shape[dim]
    while size > 1:
        half = 1 << (size - 1).bit_length() - 1
        lower, upper = x.split(half, dim)
        if size == 2 * half:
            x = lower + upper
        else:
            x = lower.clone()
            x.narrow(dim, 0, size - half).add_(upper)
        size = half
    return x.squeeze(dim)


def exp(x: Tensor) -> Tensor:
    """exp(x), with x cut to -87..87: 2**n times a polynomial of the rest.

    Accuracy: relative error below 4e-7.
    Source: Cephes, expf.
    """
    x = x.clamp(-LIMIT, LIMIT)
    n = (x * LOG2_E).round()
    rest = x - n * LN2_HIGH
    rest -= n * LN2_LOW
    p = rest * COEFFICIENTS[0]
    for coefficient in COEFFICIENTS[1:]:
        p += coefficient
        p *= rest
    p *= rest
    p += rest
    p += 1.0
    power = ((n.to(torch.int32) + 127) << 23).view(torch.float32)
    return p * power


def sigmoid(x: Tensor) -> Tensor:
    return 1.0 / (exp(-x) + 1.0)


def silu(x: Tensor) -> Tensor:
    """x / (1 + exp(-x))."""
    return x / (exp(-x) + 1.0)
