"""Q5_1: 32 weights in 24 bytes, a half-precision scale and offset, 32 fifth bits, and nibbles as in Q4_0."""

import triton
import triton.language as tl

from .halves import load_byte, load_half


@triton.jit
def decode_q5_1(rows, group, lane):
    block = rows + group * 24
    low = (load_byte(block + 8 + lane % 16) >> (lane // 16 * 4)) & 15
    high = (load_byte(block + 4 + lane // 8) >> (lane % 8)) & 1
    return tl.fma((low | (high << 4)).to(tl.float32), load_half(block), load_half(block + 2))
