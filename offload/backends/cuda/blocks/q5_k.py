"""Q5_K: 256 weights in 176 bytes, the header, 32 bytes of fifth bits, one for each group, and nibbles as in Q4_K."""

import triton
import triton.language as tl

from .halves import load_byte
from .scales_k import scale_and_offset


@triton.jit
def decode_q5_k(rows, group, lane):
    block, group = rows + group // 8 * 176, group % 8
    scale, offset = scale_and_offset(block, group)
    low = (load_byte(block + 48 + group // 2 * 32 + lane) >> (group % 2 * 4)) & 15
    high = (load_byte(block + 16 + lane) >> group) & 1
    return tl.fma((low | (high << 4)).to(tl.float32), scale, -offset)
