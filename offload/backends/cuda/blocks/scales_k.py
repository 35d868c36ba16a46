"""The header that Q4_K and Q5_K share: two halves, then eight 6-bit scales and minimums in 12 bytes."""

import triton
import triton.language as tl

from .halves import load_byte, load_half


@triton.jit
def scale_and_offset(block, group):
    """Of group 0..7 in its block: a weight is its quant times the scale, less the offset.

    Bytes 0-3 and 4-7 hold the first four scales and minimums; bytes 8-11 the low nibbles of the others, whose upper
    two bits are the upper two bits of bytes 0-7.
    """
    packed = block + 4 + group % 4
    first, second, third = load_byte(packed), load_byte(packed + 4), load_byte(packed + 8)
    scale = tl.where(group < 4, first & 63, (third & 15) | ((first >> 6) << 4))
    minimum = tl.where(group < 4, second & 63, (third >> 4) | ((second >> 6) << 4))
    return load_half(block) * scale.to(tl.float32), load_half(block + 2) * minimum.to(tl.float32)
