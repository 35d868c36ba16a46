"""Q4_0: 32 weights in 18 bytes, a half-precision scale and nibbles: the low ones first, then the high ones."""

import triton
import triton.language as tl

from .halves import load_byte, load_half


@triton.jit
def decode_q4_0(rows, group, lane):
    block = rows + group * 18
    quants = (load_byte(block + 2 + lane % 16) >> (lane // 16 * 4)) & 15
    return (quants - 8).to(tl.float32) * load_half(block)
