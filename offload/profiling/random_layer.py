"""Random expert layers with finite scales, at cache-line addresses.

Of large layers only the first experts are drawn, the others are their copies.
"""

import numpy as np
from numpy.typing import NDArray

from experts import ExpertLayer, Format, Matrix, MatrixStack, row_bytes

# Where the float16 fields of a block lie, if not at its beginning only; formats without any are listed too.
HALF_FIELDS = {
    "Q4_1": (0, 2), "Q5_1": (0, 2), "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,),
    "MXFP4": (), "IQ1_M": (), "FP8_E4M3": (),
}  # fmt: skip


DRAWN_BYTES = 64 << 20  # of each matrix stack


def random_layer(fmt: Format, num_experts: int, hidden: int, ffn: int) -> ExpertLayer:
    """E experts with gate and up (F, D) and down (D, F), all of one format."""
    shapes = ((ffn, hidden), (ffn, hidden), (hidden, ffn))
    return ExpertLayer(*(_random_stack(fmt, num_experts, *shape) for shape in shapes))


def random_matrix(fmt: Format, rows: int, columns: int) -> Matrix:
    return Matrix.from_bytes(fmt, rows, columns, _random_stack(fmt, 1, rows, columns).data.reshape(-1))


def _random_stack(fmt: Format, num_experts: int, rows: int, columns: int) -> MatrixStack:
    matrix_bytes = rows * row_bytes(fmt, columns)
    all_bytes, drawn = num_experts * matrix_bytes, max(1, min(num_experts, DRAWN_BYTES // matrix_bytes))
    whole = _aligned(all_bytes)
    _draw(fmt, whole[: drawn * matrix_bytes])
    for start in range(drawn * matrix_bytes, all_bytes, drawn * matrix_bytes):
        whole[start : start + drawn * matrix_bytes] = whole[: min(drawn * matrix_bytes, all_bytes - start)]
    return MatrixStack.from_bytes(fmt, num_experts, rows, columns, whole)


def _draw(fmt: Format, data: NDArray[np.uint8]) -> None:
    """Fills whole blocks."""
    rng = np.random.default_rng(0)
    if fmt.block_weights == 1:
        values = rng.standard_normal(data.size // fmt.block_bytes, dtype=np.float32)
        halves = values.astype(np.float16) if fmt.name == "F16" else (values.view(np.uint32) >> 16).astype(np.uint16)
        data[:] = (values if fmt.name == "F32" else halves).view(np.uint8)
        return
    data.view(np.uint64)[:] = rng.integers(0, 1 << 64, data.size // 8, dtype=np.uint64)
    blocks = data.reshape(-1, fmt.block_bytes)
    if fmt.name == "FP8_E4M3":
        blocks[blocks & 127 == 127] = 0  # no number
        blocks[blocks & 0x78 == 0] |= 0x30  # weights are hardly ever denormal, which processors multiply slowly
        blocks[:, :4] = np.frombuffer(np.float32(0.01).tobytes(), np.uint8)
    for field in HALF_FIELDS.get(fmt.name, (0,)):
        blocks[:, field : field + 2] = np.frombuffer(np.float16(0.01).tobytes(), np.uint8)
    if fmt.name == "MXFP4":
        blocks[:, 0] = 121  # 2**-7
    if fmt.name == "IQ1_M":  # the high four bits of four fields are a float16, here 0.0085
        blocks[:, 49::2] = blocks[:, 49::2] & 15 | np.array([0x10, 0x10, 0x20, 0x20], np.uint8)


def _aligned(num_bytes: int) -> NDArray[np.uint8]:
    memory = np.empty(num_bytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + num_bytes]
