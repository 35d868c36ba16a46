"""The one entry of the quantizers: rows of weights to rows of bytes, on all threads."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

import experts
from experts.quantize.rounding import q4_0, q5_0, q8_0
from experts.quantize.super_blocks import q4_k, q5_k, q6_k

from ..parallel import in_shares

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

# Fill out uint8 (blocks, block bytes) from float32 (blocks, block weights).
QUANTIZERS: dict[str, Callable[[Floats, Bytes], None]] = {
    "Q8_0": q8_0,
    "Q6_K": q6_k,
    "Q5_K": q5_k,
    "Q5_0": q5_0,
    "Q4_K": q4_k,
    "Q4_0": q4_0,
}

_SHARE_BLOCKS = 1024  # at least so many blocks are worth a thread


def _bf16(values: Floats) -> Bytes:
    """Rounded half to even."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16).view(np.uint8)


ENCODERS: dict[str, Callable[[Floats], Bytes]] = {
    "F32": lambda values: values.view(np.uint8),
    "F16": lambda values: values.astype(np.float16).view(np.uint8),
    "BF16": _bf16,
}


def quantize(values: Floats, name: str) -> Bytes:
    """Encodes rows of weights.

    Args:
        values: float32 (rows, columns), contiguous; columns a multiple of the format's block.
        name: of a format in QUANTIZERS or ENCODERS.

    Returns:
        uint8 (rows, row bytes).

    Raises:
        ValueError: a weight is no finite number.
    """
    if not np.isfinite(values).all():
        raise ValueError("a weight is infinite or no number")
    if name in ENCODERS:
        return ENCODERS[name](values)
    fmt, function = experts.FORMATS[name], QUANTIZERS[name]
    out = np.empty((len(values), experts.row_bytes(fmt, values.shape[1])), np.uint8)
    in_shares(function, _SHARE_BLOCKS, values.reshape(-1, fmt.block_weights), out.reshape(-1, fmt.block_bytes))
    return out
