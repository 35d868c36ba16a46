"""Q2_K: 256 weights in 84 bytes: a 4-bit scale and minimum for each group of 16, pairs of bits, two halves."""

import triton
import triton.language as tl

from .halves import load_byte, load_half


@triton.jit
def decode_q2_k(rows, group, lane):
    """Each half of the block has 32 bytes, in which four times 32 weights follow each other, the lowest bits first."""
    block, group = rows + group // 16 * 84, group % 16
    scales = load_byte(block + group)
    packed = load_byte(block + 16 + group // 8 * 32 + group % 2 * 16 + lane)
    quants = ((packed >> (group % 8 // 2 * 2)) & 3).to(tl.float32)
    scale = load_half(block + 80) * (scales & 15).to(tl.float32)
    return tl.fma(quants, scale, -(load_half(block + 82) * (scales >> 4).to(tl.float32)))
