"""Q6_K: 256 weights in 210 bytes: nibbles, upper bits in pairs, a signed scale for each group of 16, and one half."""

import triton
import triton.language as tl

from .halves import load_byte, load_half


@triton.jit
def decode_q6_k(rows, group, lane):
    """Each half of the block has 64 bytes of nibbles (the low ones first) and 32 of upper bits (the lowest first)."""
    block, group = rows + group // 16 * 210, group % 16
    half, group_of_half = group // 8, group % 8
    low = load_byte(block + half * 64 + group_of_half % 4 * 16 + lane) >> (group_of_half // 4 * 4)
    high = load_byte(block + 128 + half * 32 + group_of_half % 2 * 16 + lane) >> (group_of_half // 2 * 2)
    quants = ((low & 15) | ((high & 3) << 4)) - 32
    scale = tl.load((block + 192 + group).to(tl.pointer_type(tl.int8))).to(tl.float32) * load_half(block + 208)
    return quants.to(tl.float32) * scale
