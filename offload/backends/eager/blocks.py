"""Block formats in plain torch operations: encoded rows to float32, and the formats of caches back.

Each function takes uint8 (..., B, block bytes) and the values of IQ4, and returns float32 (..., B, block weights).

Source: ggml-common.h (the layouts), the files of experts/blocks (the same in words).
"""

from collections.abc import Callable

import torch
from torch import Tensor

IQ4_VALUES = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


def decode(format_name: str, data: Tensor, columns: int, iq4_values: Tensor | None = None) -> Tensor:
    """Encoded rows as numbers.

    Args:
        format_name: one of FORMATS.
        data: uint8 (..., row bytes), contiguous.
        columns: weights of a row.
        iq4_values: float32 (16,) on the device of the data; only formats named after it need them.

    Returns:
        float32 (..., columns).
    """
    if format_name in FLOATS:
        return data.view(FLOATS[format_name]).to(torch.float32)
    block_weights, decoded = BLOCKS[format_name]
    return decoded(data.unflatten(-1, (columns // block_weights, -1)), iq4_values).flatten(-2)


def encode(format_name: str, x: Tensor) -> Tensor:
    """Numbers (..., columns) as rows of F32, F16, BF16 or Q8_0: uint8 (..., row bytes).

    Source: ggml, `quantize_row_q8_0` (scale = max|x| / 127, half to even).
    """
    if format_name in FLOATS:
        return x.to(FLOATS[format_name]).view(torch.uint8)
    assert format_name == "Q8_0", format_name
    blocks = x.unflatten(-1, (-1, 32))
    scale = blocks.abs().amax(-1, keepdim=True) / 127.0
    quants = (blocks * torch.where(scale > 0, 1.0 / scale, 0.0)).round().to(torch.int8)
    return torch.cat([scale.to(torch.float16).view(torch.uint8), quants.view(torch.uint8)], -1).flatten(-2)


def _half(bytes_of: Tensor) -> Tensor:
    """Pairs of bytes as float32, the last dimension kept: (..., 2) -> (..., 1)."""
    return bytes_of.contiguous().view(torch.float16).to(torch.float32)


def _signed(bytes_of: Tensor) -> Tensor:
    return bytes_of.contiguous().view(torch.int8).to(torch.float32)


def _nibbles(packed: Tensor) -> Tensor:
    """(..., n) bytes -> (..., 2, n): low halves, then high ones."""
    return torch.stack([packed & 15, packed >> 4], -2)


def _two_bits(packed: Tensor) -> Tensor:
    """(..., n) bytes -> (..., 4, n): from the lowest pair of bits to the highest."""
    return torch.stack([(packed >> shift) & 3 for shift in (0, 2, 4, 6)], -2)


def _fifth_bits(packed: Tensor) -> Tensor:
    """Four bytes, bit i of which belongs to weight i: (..., 32), each 0 or 16."""
    return (torch.stack([(packed >> bit) & 1 for bit in range(8)], -1) << 4).flatten(-2)


def _q8_0(b: Tensor, _: Tensor | None) -> Tensor:
    return _signed(b[..., 2:]) * _half(b[..., :2])


def _q4_0(b: Tensor, _: Tensor | None) -> Tensor:
    return (_nibbles(b[..., 2:]).flatten(-2).to(torch.float32) - 8.0) * _half(b[..., :2])


def _q4_1(b: Tensor, _: Tensor | None) -> Tensor:
    return _nibbles(b[..., 4:]).flatten(-2).to(torch.float32) * _half(b[..., :2]) + _half(b[..., 2:4])


def _q5_0(b: Tensor, _: Tensor | None) -> Tensor:
    quants = _nibbles(b[..., 6:]).flatten(-2) | _fifth_bits(b[..., 2:6])
    return (quants.to(torch.float32) - 16.0) * _half(b[..., :2])


def _q5_1(b: Tensor, _: Tensor | None) -> Tensor:
    quants = _nibbles(b[..., 8:]).flatten(-2) | _fifth_bits(b[..., 4:8])
    return quants.to(torch.float32) * _half(b[..., :2]) + _half(b[..., 2:4])


def _iq4_nl(b: Tensor, values: Tensor | None) -> Tensor:
    assert values is not None
    return values[_nibbles(b[..., 2:]).flatten(-2).to(torch.int64)] * _half(b[..., :2])


def _q2_k(b: Tensor, _: Tensor | None) -> Tensor:
    quants = _two_bits(b[..., 16:80].unflatten(-1, (2, 32))).flatten(-3).unflatten(-1, (16, 16)).to(torch.float32)
    scale = _half(b[..., 80:82]) * (b[..., :16] & 15).to(torch.float32)
    offset = _half(b[..., 82:]) * (b[..., :16] >> 4).to(torch.float32)
    return (quants * scale[..., None] - offset[..., None]).flatten(-2)


def _q3_k(b: Tensor, _: Tensor | None) -> Tensor:
    low = _two_bits(b[..., 32:96].unflatten(-1, (2, 32))).flatten(-3, -2)  # (..., 8, 32)
    high = torch.stack([(b[..., :32] >> group) & 1 for group in range(8)], -2)
    quants = (low | (high << 2)).to(torch.float32).flatten(-2).unflatten(-1, (16, 16)) - 4.0
    scales = _nibbles(b[..., 96:104]).flatten(-2) | (_two_bits(b[..., 104:108]).flatten(-2) << 4)
    return (quants * (_half(b[..., 108:]) * (scales.to(torch.float32) - 32.0))[..., None]).flatten(-2)


def _scales_and_minimums(packed: Tensor) -> tuple[Tensor, Tensor]:
    """12 bytes as eight 6-bit scales and minimums.

    Bytes 0-3 and 4-7 hold the first four of each; bytes 8-11 the low nibbles of the others, whose upper two bits are
    the upper two bits of bytes 0-7.
    """
    first, second, third = packed[..., :4], packed[..., 4:8], packed[..., 8:]
    scales = torch.cat([first & 63, (third & 15) | ((first >> 6) << 4)], -1)
    minimums = torch.cat([second & 63, (third >> 4) | ((second >> 6) << 4)], -1)
    return scales.to(torch.float32), minimums.to(torch.float32)


def _scaled_groups(b: Tensor, quants: Tensor) -> Tensor:
    """Eight groups of 32 (..., 8, 32) under the header of Q4_K and Q5_K."""
    scales, minimums = _scales_and_minimums(b[..., 4:16])
    scale, offset = _half(b[..., :2]) * scales, _half(b[..., 2:4]) * minimums
    return (quants.to(torch.float32) * scale[..., None] - offset[..., None]).flatten(-2)


def _q4_k(b: Tensor, _: Tensor | None) -> Tensor:
    return _scaled_groups(b, _nibbles(b[..., 16:].unflatten(-1, (4, 32))).flatten(-3, -2))


def _q5_k(b: Tensor, _: Tensor | None) -> Tensor:
    low = _nibbles(b[..., 48:].unflatten(-1, (4, 32))).flatten(-3, -2)
    high = torch.stack([(b[..., 16:48] >> group) & 1 for group in range(8)], -2)
    return _scaled_groups(b, low | (high << 4))


def _q6_k(b: Tensor, _: Tensor | None) -> Tensor:
    low = _nibbles(b[..., :128].unflatten(-1, (2, 64))).flatten(-2)  # (..., 2, 128): halves of the block
    high = _two_bits(b[..., 128:192].unflatten(-1, (2, 32))).flatten(-2)
    quants = ((low | (high << 4)).to(torch.float32) - 32.0).flatten(-2).unflatten(-1, (16, 16))
    scale = _half(b[..., 208:]) * _signed(b[..., 192:208])
    return (quants * scale[..., None]).flatten(-2)


def _iq4_xs(b: Tensor, values: Tensor | None) -> Tensor:
    assert values is not None
    low = _nibbles(b[..., 4:8]).transpose(-1, -2).flatten(-2)  # eight, in order
    high = _two_bits(b[..., 2:4]).transpose(-1, -2).flatten(-2)
    scale = _half(b[..., :2]) * ((low | (high << 4)).to(torch.float32) - 32.0)
    quants = values[_nibbles(b[..., 8:].unflatten(-1, (8, 16))).flatten(-2).to(torch.int64)]
    return (quants * scale[..., None]).flatten(-2)


FLOATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
BLOCKS: dict[str, tuple[int, Callable[[Tensor, Tensor | None], Tensor]]] = {
    "Q8_0": (32, _q8_0),
    "Q4_0": (32, _q4_0),
    "Q4_1": (32, _q4_1),
    "Q5_0": (32, _q5_0),
    "Q5_1": (32, _q5_1),
    "IQ4_NL": (32, _iq4_nl),
    "Q2_K": (256, _q2_k),
    "Q3_K": (256, _q3_k),
    "Q4_K": (256, _q4_k),
    "Q5_K": (256, _q5_k),
    "Q6_K": (256, _q6_k),
    "IQ4_XS": (256, _iq4_xs),
}
FORMATS = (*FLOATS, *BLOCKS)
