"""Fields of blocks that stand at even addresses only."""

import triton
import triton.language as tl


@triton.jit
def load_half(address):
    """float32 of the half-precision numbers at these byte pointers."""
    return tl.load(address.to(tl.pointer_type(tl.float16))).to(tl.float32)


@triton.jit
def load_byte(address):
    """int32 of the unsigned bytes at these pointers."""
    return tl.load(address).to(tl.int32)
