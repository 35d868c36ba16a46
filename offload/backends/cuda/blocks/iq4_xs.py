"""IQ4_XS: 256 weights in 136 bytes: a half, eight 6-bit scales in two parts, and nibbles as in IQ4_NL."""

import triton
import triton.language as tl

from .halves import load_byte, load_half
from .iq4_values import iq4_value


@triton.jit
def decode_iq4_xs(rows, group, lane):
    block, group = rows + group // 8 * 136, group % 8
    low = load_byte(block + 4 + group // 2) >> (group % 2 * 4)
    high = load_byte(block + 2 + group // 4) >> (group % 4 * 2)
    scale = load_half(block) * (((low & 15) | ((high & 3) << 4)) - 32).to(tl.float32)
    return iq4_value((load_byte(block + 8 + group * 16 + lane % 16) >> (lane // 16 * 4)) & 15) * scale
