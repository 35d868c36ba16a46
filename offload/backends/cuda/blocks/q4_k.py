"""Q4_K: 256 weights in 144 bytes, the header and nibbles: two groups of 32 share 32 bytes."""

import triton
import triton.language as tl

from .halves import load_byte
from .scales_k import scale_and_offset


@triton.jit
def decode_q4_k(rows, group, lane):
    block, group = rows + group // 8 * 144, group % 8
    scale, offset = scale_and_offset(block, group)
    quants = (load_byte(block + 16 + group // 2 * 32 + lane) >> (group % 2 * 4)) & 15
    return tl.fma(quants.to(tl.float32), scale, -offset)
