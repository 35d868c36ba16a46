"""Q5_0: 32 weights in 22 bytes, a half-precision scale, 32 fifth bits, and nibbles as in Q4_0."""

import triton
import triton.language as tl

from .halves import load_byte, load_half


@triton.jit
def decode_q5_0(rows, group, lane):
    block = rows + group * 22
    low = (load_byte(block + 6 + lane % 16) >> (lane // 16 * 4)) & 15
    high = (load_byte(block + 2 + lane // 8) >> (lane % 8)) & 1
    return ((low | (high << 4)) - 16).to(tl.float32) * load_half(block)
