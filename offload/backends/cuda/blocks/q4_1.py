"""Q4_1: 32 weights in 20 bytes, a half-precision scale and offset, and nibbles as in Q4_0."""

import triton
import triton.language as tl

from .halves import load_byte, load_half


@triton.jit
def decode_q4_1(rows, group, lane):
    block = rows + group * 20
    quants = (load_byte(block + 4 + lane % 16) >> (lane // 16 * 4)) & 15
    return tl.fma(quants.to(tl.float32), load_half(block), load_half(block + 2))
