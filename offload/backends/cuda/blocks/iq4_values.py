"""The 16 values of IQ4_NL and IQ4_XS, in two registers."""

import triton
import triton.language as tl

# Eight signed bytes each: -127 -104 -83 -65 -49 -35 -22 -10 and 1 13 25 38 53 69 89 113, the first one lowest.
LOWER: tl.constexpr = tl.constexpr(-0x091522304052677F)
UPPER: tl.constexpr = tl.constexpr(0x7159453526190D01)


@triton.jit
def iq4_value(entry):
    """float32 of entries 0..15."""
    values = tl.where(entry < 8, LOWER, UPPER)
    return (values >> ((entry % 8) * 8).to(tl.int64)).to(tl.int8).to(tl.float32)
