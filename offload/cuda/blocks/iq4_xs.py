"""IQ4_XS: 256 weights in 136 bytes: a half, eight 6-bit scales in two parts, and nibbles that name one of 16 values."""

import triton
import triton.language as tl

from .halves import load_byte, load_half

# Eight signed bytes each: -127 -104 -83 -65 -49 -35 -22 -10 and 1 13 25 38 53 69 89 113, the first one lowest.
LOWER: tl.constexpr = tl.constexpr(-0x091522304052677F)
UPPER: tl.constexpr = tl.constexpr(0x7159453526190D01)


@triton.jit
def decode_iq4_xs(rows, group, lane):
    block, group = rows + group // 8 * 136, group % 8
    low = load_byte(block + 4 + group // 2) >> (group % 2 * 4)
    high = load_byte(block + 2 + group // 4) >> (group % 4 * 2)
    scale = load_half(block) * (((low & 15) | ((high & 3) << 4)) - 32).to(tl.float32)
    entry = (load_byte(block + 8 + group * 16 + lane % 16) >> (lane // 16 * 4)) & 15
    values = tl.where(entry < 8, LOWER, UPPER)
    value = (values >> ((entry % 8) * 8).to(tl.int64)).to(tl.int8)
    return value.to(tl.float32) * scale
