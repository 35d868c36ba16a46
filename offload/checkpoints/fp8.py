"""FP8 weights of checkpoints, E4M3 with scales in a tensor of their own, as blocks that the kernels read.

Two forms are published: a scale for each block of 128 x 128 weights (`weight_scale_inv`), and one for each row
(`weight_scale`). Both multiply the weight. A block of the kernels holds 128 weights of a row and their scale.
"""

from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from numba import njit
from numpy.typing import NDArray

from experts.build import KERNEL

from ..errors import CheckpointError
from ..parallel import in_shares

BLOCK_WEIGHTS = 128
_SHARE_ROWS = 64  # are worth a thread
NAN = 0x7F  # with either sign; E4M3 has no infinities


@dataclass(frozen=True, eq=False)
class Fp8Matrix:
    """One matrix and its scales.

    Attributes:
        name: For messages.
        weights_RC: uint8 (rows, columns), E4M3.
        scales: float32 (row blocks, column blocks).
        block_rows, block_columns: of one scale.
    """

    name: str
    weights_RC: NDArray[np.uint8]
    scales: NDArray[np.float32]
    block_rows: int
    block_columns: int

    @property
    def has_whole_blocks(self) -> bool:
        """Whether a block of the kernels has one scale; otherwise the matrix has to be expanded."""
        columns = self.weights_RC.shape[1]
        return columns % BLOCK_WEIGHTS == 0 and (
            self.block_columns % BLOCK_WEIGHTS == 0 or self.block_columns >= columns
        )

    def blocks(self, first: int, last: int) -> NDArray[np.uint8]:
        """Rows [first, last) in the kernels' blocks, uint8 (rows, row bytes).

        Raises:
            CheckpointError: a weight or a scale is no number.
        """
        weights = self.weights_RC[first:last]
        num_blocks = weights.shape[1] // BLOCK_WEIGHTS
        columns = np.arange(num_blocks) * BLOCK_WEIGHTS // self.block_columns
        scales = np.ascontiguousarray(self._scales_of_rows(first, last)[:, columns])
        blocks = np.empty((last - first, num_blocks, 4 + BLOCK_WEIGHTS), np.uint8)
        shares = in_shares(_pack, _SHARE_ROWS, weights, scales.view(np.uint8).reshape(*scales.shape, 4), blocks)
        if not all(shares):
            self._refuse()
        return blocks.reshape(last - first, -1)

    def expanded(self, first: int, last: int) -> NDArray[np.uint8]:
        """Rows [first, last) as float32, uint8 (rows, row bytes).

        Raises:
            CheckpointError: a weight or a scale is no number.
        """
        weights = self._checked(first, last)
        columns = np.arange(weights.shape[1]) // self.block_columns
        values = E4M3[weights] * self._scales_of_rows(first, last)[:, columns]
        return values.view(np.uint8)

    def _checked(self, first: int, last: int) -> NDArray[np.uint8]:
        weights = self.weights_RC[first:last]
        if np.any((weights & NAN) == NAN):
            self._refuse()
        return weights

    def _refuse(self) -> NoReturn:
        raise CheckpointError(f"tensor {self.name} has weights that are no numbers: the file is damaged")

    def _scales_of_rows(self, first: int, last: int) -> NDArray[np.float32]:
        """float32 (rows, column blocks)."""
        scales: NDArray[np.float32] = self.scales[np.arange(first, last) // self.block_rows]
        if not np.isfinite(scales).all():
            raise CheckpointError(f"the scales of tensor {self.name} are not all finite: the file is damaged")
        return scales


@njit(nogil=True, **KERNEL)
def _pack(weights: Any, scales: Any, blocks: Any) -> bool:
    """Puts bytes where the kernels look for them, see experts/blocks/fp8_e4m3.py; whether all are numbers."""
    good = True
    for row in range(len(weights)):
        for block in range(blocks.shape[1]):
            target = blocks[row, block]
            target[:4] = scales[row, block]
            for half in range(2):
                source = weights[row, BLOCK_WEIGHTS * block + 64 * half : BLOCK_WEIGHTS * block + 64 * half + 64]
                for i in range(16):
                    for k in range(4):
                        byte = source[16 * (3 - k) + i]
                        good &= byte & NAN != NAN
                        target[4 + 64 * half + 4 * i + k] = byte
    return good


def _e4m3_values() -> NDArray[np.float32]:
    """What each byte stands for. Source: OCP 8-bit floating point, E4M3."""
    byte = np.arange(256)
    sign, exponent, mantissa = np.where(byte & 128, -1.0, 1.0), byte >> 3 & 15, byte & 7
    values = np.where(exponent > 0, np.ldexp(1 + mantissa / 8, exponent - 7), np.ldexp(mantissa / 8, -6))
    return (sign * values).astype(np.float32)


E4M3 = _e4m3_values()
