"""IQ4_NL: 32 weights in 18 bytes, a half-precision scale and nibbles that name one of 16 values."""

import triton
import triton.language as tl  # noqa: F401 - triton's interpreter looks for it here

from .halves import load_byte, load_half
from .iq4_values import iq4_value


@triton.jit
def decode_iq4_nl(rows, group, lane):
    block = rows + group * 18
    return iq4_value((load_byte(block + 2 + lane % 16) >> (lane // 16 * 4)) & 15) * load_half(block)
