"""Q8_0: 32 weights in 34 bytes, a half-precision scale and signed bytes."""

import triton
import triton.language as tl

from .halves import load_half


@triton.jit
def decode_q8_0(rows, group, lane):
    block = rows + group * 34
    return tl.load((block + 2 + lane).to(tl.pointer_type(tl.int8))).to(tl.float32) * load_half(block)
