"""Re-encodes, while loading, what a device does not decode: in the narrowest format that it does, losing nothing.

What loses nothing is not assumed but checked, weight by weight, on every matrix. Codebook formats have integers under
one scale for each block: if those fit the integers of Q8_0 or Q6_K, nothing is lost.
"""

from collections.abc import Callable, Collection

import numpy as np
from numpy.typing import NDArray

import experts

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
Encoder = Callable[[Floats, Floats], Bytes | None]  # weights (N, D), units (N, B) -> rows of bytes, or None

PIECE_ROWS = 4096


def _half_at(offset: int, factor: float = 1.0) -> Callable[[Bytes], Floats]:
    """Units from the scales of blocks (..., block bytes)."""
    return lambda blocks: np.float32(factor) * blocks[..., offset : offset + 2].copy().view(np.float16)[..., 0]


# Every weight of a block is a whole number of these.
UNITS: dict[str, Callable[[Bytes], Floats]] = {
    "Q5_0": _half_at(0),
    "IQ4_NL": _half_at(0),
    "MXFP4": lambda blocks: np.ldexp(np.float32(1), blocks[..., 0].astype(np.int32) - 128),
    "Q3_K": _half_at(108),
    "IQ3_S": _half_at(0),
    "IQ3_XXS": _half_at(0, 0.5),
}


class Expansions:
    """Re-encodes matrices for a device that decodes `formats`, and keeps account of it for the plan."""

    def __init__(self, formats: Collection[str]) -> None:
        self._formats = formats
        self._bytes: dict[tuple[str, str], tuple[int, int]] = {}

    def storable(self, matrix: experts.Matrix) -> experts.Matrix:
        """The matrix itself, or the same weights in a format that the device decodes."""
        old = matrix.format.name
        if old in self._formats:
            return matrix
        for name, encode in ENCODERS.items():
            found = _encoded(matrix, experts.FORMATS[name], encode) if name in self._formats else None
            if found is not None:
                before, after = self._bytes.get((old, name), (0, 0))
                self._bytes[old, name] = before + matrix.data.nbytes, after + found.data.nbytes
                return found
        raise AssertionError("F32 holds every weight")

    def lines(self) -> list[str]:
        """One line for each pair of formats: what became of how many bytes."""
        return [
            f"{old} weights are kept as {new}, which loses nothing: {before / 1e6:.1f} MB became {after / 1e6:.1f} MB"
            for (old, new), (before, after) in self._bytes.items()
        ]


def _encoded(matrix: experts.Matrix, target: experts.Format, encode: Encoder) -> experts.Matrix | None:
    if matrix.columns % target.block_weights:
        return None
    data = np.empty((matrix.rows, experts.row_bytes(target, matrix.columns)), np.uint8)
    for start in range(0, matrix.rows, PIECE_ROWS):
        end = min(start + PIECE_ROWS, matrix.rows)
        weights, units = experts.dequantize(matrix, start, end), np.zeros((end - start, 0), np.float32)
        if matrix.format.name in UNITS:
            blocks = matrix.data[start:end].reshape(end - start, -1, matrix.format.block_bytes)
            units = UNITS[matrix.format.name](blocks)
        piece = encode(weights, units)
        if piece is None:
            return None
        data[start:end] = piece
    return experts.Matrix(target, matrix.rows, matrix.columns, data)


def _whole_numbers(weights: Floats, units: Floats, size: int) -> tuple[NDArray[np.int32], Bytes] | None:
    """Integers (N, B, size) and half-precision units (N, B, 2) that give exactly the weights, or None."""
    if units.shape[1] * size != weights.shape[1]:
        return None
    with np.errstate(all="ignore"):
        halves = units.astype(np.float16)
        scale = halves.astype(np.float32)[..., None]
        blocks = weights.reshape(*units.shape, size)
        whole = np.rint(np.divide(blocks, scale, out=np.zeros_like(blocks), where=scale != 0))
        same = (np.abs(whole) <= 1 << 20).all() and np.array_equal(whole * scale, blocks)
    return (whole.astype(np.int32), halves[..., None].view(np.uint8)) if same else None


def _as_q8_0(weights: Floats, units: Floats) -> Bytes | None:
    found = _whole_numbers(weights, units, 32)
    if found is None or np.abs(found[0]).max() > 127:
        return None
    return np.concatenate([found[1], found[0].astype(np.int8).view(np.uint8)], -1).reshape(len(weights), -1)


def _as_q6_k(weights: Floats, units: Floats) -> Bytes | None:
    """A scale of Q6_K is a common divisor of its 16 integers, up to 127, that leaves quotients of -32..31."""
    found = _whole_numbers(weights, units, 256)
    if found is None:
        return None
    whole = found[0].reshape(*units.shape, 16, 16)
    common = np.gcd.reduce(whole, axis=-1)
    scale = np.zeros_like(common)
    largest = np.abs(whole).max(-1)
    for divisor in range(31, 0, -1):
        candidate = common // divisor
        fits = (common % divisor == 0) & (candidate <= 127) & (largest <= 31 * candidate)
        scale = np.where(fits, candidate, scale)
    if not (largest[scale == 0] == 0).all():
        return None
    quants = (whole // np.maximum(scale, 1)[..., None] + 32).astype(np.uint8).reshape(*units.shape, 2, 4, 32)
    low = np.stack(
        [quants[..., 0, :] & 15 | quants[..., 2, :] << 4, quants[..., 1, :] & 15 | quants[..., 3, :] << 4], -2
    )
    high = (quants >> 4 << np.arange(0, 8, 2, dtype=np.uint8)[:, None]).sum(-2).astype(np.uint8)
    parts = [low.reshape(*units.shape, 128), high.reshape(*units.shape, 64), scale.astype(np.uint8), found[1]]
    return np.concatenate(parts, -1).reshape(len(weights), -1)


def _as_f16(weights: Floats, units: Floats) -> Bytes | None:
    with np.errstate(over="ignore"):
        halves = weights.astype(np.float16)
    return halves.view(np.uint8) if np.array_equal(halves.astype(np.float32), weights) else None


def _as_f32(weights: Floats, units: Floats) -> Bytes | None:
    return weights.view(np.uint8)


ENCODERS: dict[str, Encoder] = {"Q6_K": _as_q6_k, "Q8_0": _as_q8_0, "F16": _as_f16, "F32": _as_f32}  # narrowest first
