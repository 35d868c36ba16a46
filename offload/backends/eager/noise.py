"""The Gumbel noise of offload/sampling/noise.py in torch operations: the same Philox words, drawn where the logits are.

The words are equal to the bit. The logarithms are the device's own, so the noise may differ in its last bits: that can
change which of two tied tokens is drafted, and never what is verified.
"""

import torch
from torch import Tensor

MULTIPLIER_0, MULTIPLIER_1 = 0xD2511F53, 0xCD9E8D57
WEYL_0, WEYL_1 = 0x9E3779B9, 0xBB67AE85
LOW = 0xFFFFFFFF


def gumbel(seed: int, position: int, token_ids: Tensor) -> Tensor:
    """Standard Gumbel variates for token ids (int64), in the widest float of the device."""
    zero = torch.zeros_like(token_ids)
    high, low, _, _ = philox(
        token_ids, zero + (position & LOW), zero + (position >> 32), zero, seed & LOW, seed >> 32
    )  # fmt: skip
    wide = torch.float32 if token_ids.device.type == "mps" else torch.float64
    uniform = ((high >> 5).to(wide) * 67108864.0 + (low >> 6).to(wide) + 0.5) / 9007199254740992.0
    return -torch.log(-torch.log(uniform.clamp(max=1.0 - torch.finfo(wide).eps / 2)))


def philox(c0: Tensor, c1: Tensor, c2: Tensor, c3: Tensor, k0: int, k1: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ten rounds over a counter of 32-bit words, each held in an int64.

    Products wrap around to negative numbers; masking the shifted product gives its upper word all the same.
    """
    for _ in range(10):
        product_0, product_1 = c0 * MULTIPLIER_0, c2 * MULTIPLIER_1
        c0, c1, c2, c3 = (
            ((product_1 >> 32) & LOW) ^ c1 ^ k0,
            product_1 & LOW,
            ((product_0 >> 32) & LOW) ^ c3 ^ k1,
            product_0 & LOW,
        )
        k0, k1 = (k0 + WEYL_0) & LOW, (k1 + WEYL_1) & LOW
    return c0, c1, c2, c3
