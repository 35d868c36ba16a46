"""F32, F16 and BF16: the numbers themselves."""

import triton
import triton.language as tl


@triton.jit
def decode_floats(TYPE: tl.constexpr, rows, group, lane, columns):
    """32 to a group; behind the end of a row there are zeros."""
    column = group * 32 + lane
    return tl.load(rows.to(tl.pointer_type(TYPE)) + column, column < columns, 0.0).to(tl.float32)
