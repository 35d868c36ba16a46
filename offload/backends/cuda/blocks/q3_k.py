"""Q3_K: 256 weights in 110 bytes: 32 bytes of third bits, pairs of bits as in Q2_K, sixteen 6-bit scales, one half."""

import triton
import triton.language as tl

from .halves import load_byte, load_half


@triton.jit
def decode_q3_k(rows, group, lane):
    block, group = rows + group // 16 * 110, group % 16
    low = load_byte(block + 32 + group // 8 * 32 + group % 2 * 16 + lane) >> (group % 8 // 2 * 2)
    high = load_byte(block + group % 2 * 16 + lane) >> (group // 2)
    quants = ((low & 3) | ((high & 1) << 2)) - 4
    low_scale = load_byte(block + 96 + group % 8) >> (group // 8 * 4)
    high_scale = load_byte(block + 104 + group % 4) >> (group // 4 * 2)
    scale = load_half(block + 108) * (((low_scale & 15) | ((high_scale & 3) << 4)) - 32).to(tl.float32)
    return quants.to(tl.float32) * scale
