"""Random weights of a given standard deviation, as blocks of any format.

Quantized tensors are random bytes in the block's layout whose scale fields are set, so nothing has to be quantized.
"""

import numpy as np
from gguf import GGML_QUANT_SIZES, quants
from gguf import GGMLQuantizationType as T

FLOATS = (T.F32, T.F16, T.BF16)

# What llama-quantize takes where a row is no multiple of 256.
FALLBACK = {
    T.Q2_K: T.IQ4_NL, T.Q3_K: T.IQ4_NL, T.Q4_K: T.Q5_0, T.Q5_K: T.Q5_1, T.Q6_K: T.Q8_0, T.IQ4_XS: T.IQ4_NL,
    T.IQ3_S: T.IQ4_NL, T.IQ3_XXS: T.IQ4_NL, T.IQ2_S: T.IQ4_NL, T.IQ2_XS: T.IQ4_NL, T.IQ2_XXS: T.IQ4_NL,
}  # fmt: skip

# Byte at which a block's float16 scale stands; and for formats with a minimum its byte and its size over the scale.
SCALE_AT = {
    T.Q8_0: 0, T.Q4_0: 0, T.Q5_0: 0, T.Q4_1: 0, T.Q5_1: 0, T.IQ4_NL: 0, T.Q2_K: 80, T.Q3_K: 108, T.Q4_K: 0, T.Q5_K: 0,
    T.Q6_K: 208, T.IQ4_XS: 0, T.IQ2_XXS: 0, T.IQ2_XS: 0, T.IQ2_S: 0, T.IQ3_XXS: 0, T.IQ3_S: 0,
}  # fmt: skip
MINIMUM = {T.Q4_1: (2, -7.5), T.Q5_1: (2, -15.5), T.Q2_K: (82, 1.5), T.Q4_K: (2, 7.5), T.Q5_K: (2, 15.5)}
EITHER_SIGN = (T.Q4_0, T.Q5_0, T.IQ4_NL)  # codes that lean to one side: scales of both signs even them out
CHUNK_BYTES = 64 << 20


def fitting(kind: T, columns: int) -> T:
    """The format, or what files have in its place where the rows do not divide into its blocks."""
    for candidate in (kind, FALLBACK.get(kind, T.Q8_0), T.F16):
        if candidate in FLOATS or columns % GGML_QUANT_SIZES[candidate][0] == 0:
            return candidate
    raise AssertionError("F16 fits everything")


def row_bytes(kind: T, columns: int) -> int:
    block, size = GGML_QUANT_SIZES[kind]
    return int(columns // block * size)


class RandomBlocks:
    def __init__(self, seed: int):
        self._rng = np.random.Generator(np.random.SFC64(seed))
        self._unit: dict[T, float] = {}

    def tensor(self, kind: T, rows: int, columns: int, std: float) -> np.ndarray:
        """uint8 (rows, row bytes), or float32 (rows, columns) for F32."""
        if kind in FLOATS:
            values = self._rng.standard_normal((rows, columns), np.float32) * np.float32(std)
            return values if kind == T.F32 else quants.quantize(values, kind).view(np.uint8).reshape(rows, -1)
        out = np.empty((rows, row_bytes(kind, columns)), np.uint8)
        step = max(1, CHUNK_BYTES // out.shape[1])
        for start in range(0, rows, step):
            part = out[start : start + step]
            num = part.size // GGML_QUANT_SIZES[kind][1]
            scale = std / self._unit_std(kind) * self._rng.uniform(0.8, 1.2, num)
            if kind in EITHER_SIGN:
                scale *= self._rng.choice((-1.0, 1.0), num)
            part[:] = self._blocks(kind, scale).reshape(part.shape)
        return out

    def _blocks(self, kind: T, scale: np.ndarray) -> np.ndarray:
        size = GGML_QUANT_SIZES[kind][1]
        blocks = np.frombuffer(self._rng.bytes(len(scale) * size), np.uint8).reshape(-1, size).copy()
        if kind == T.Q2_K:  # each part's minimum goes with its scale, so that its mean is 0
            nibble = (blocks[:, :16] & 7) | 8
            blocks[:, :16] = nibble | (nibble << 4)
        elif kind in (T.Q4_K, T.Q5_K):  # the same with 6-bit scales, all above 31
            low = (blocks[:, 4:8] & 0x1F) | 0x20 | (blocks[:, 4:8] & 0x40) | 0x80
            blocks[:, 4:8], blocks[:, 8:12] = low, low
            nibble = blocks[:, 12:16] & 0x0F
            blocks[:, 12:16] = nibble | (nibble << 4)
        halves = scale.astype(np.float16)
        at = SCALE_AT[kind]
        blocks[:, at : at + 2] = halves.view(np.uint8).reshape(-1, 2)
        if kind in MINIMUM:
            at, size_of = MINIMUM[kind]
            low_halves = (halves.astype(np.float32) * size_of).astype(np.float16)
            blocks[:, at : at + 2] = low_halves.view(np.uint8).reshape(-1, 2)
        return blocks

    def _unit_std(self, kind: T) -> float:
        """Standard deviation of random blocks whose scale is 1."""
        if kind not in self._unit:
            self._unit[kind] = float(quants.dequantize(self._blocks(kind, np.ones(512)), kind).std())
        return self._unit[kind]
