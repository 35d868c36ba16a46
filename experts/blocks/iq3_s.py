"""IQ3_S: 256 weights, each four an entry of a codebook of 512 with four signs, 4-bit scales for groups of 32.

Source: ggml, `block_iq3_s`: half d; uint8 qs[64]; uint8 qh[8]; uint8 signs[32]; uint8 scales[4]. Entry k of group g has
the number qs[8 g + k], and bit k of qh[g] as its ninth bit. Bit i of signs[b] makes weight 8 b + i negative. Scale g is
nibble g of scales. Weight = d * (2 * scale + 1) * +-entry.
"""

from typing import Any

from numba import cfunc, njit

from experts.activations import X256_BYTES
from experts.blocks.codebooks import add, codebook, decode_block, store_block
from experts.blocks.groups import total
from experts.build import INLINE, KERNEL, keyed
from experts.frame import DECODE, MULTIPLY, multiply, repeat
from experts.memory import load_f16, load_u8, load_u16
from experts.vec import zeros_f32x16

SCALE, QUANTS, HIGH, SIGNS, SCALES, BYTES = 0, 2, 66, 74, 106, 110
GEOMETRY = (256, BYTES, X256_BYTES, 5)

_codebook = codebook("IQ3_S")


@njit(**INLINE)
def _entry(source: int, group: int, word: int) -> Any:
    numbers, high = load_u16(source + QUANTS + 8 * group + 2 * word), load_u8(source + HIGH + group) >> (2 * word)
    return _codebook((numbers & 255) | ((high & 1) << 8)) | (_codebook((numbers >> 8) | ((high & 2) << 7)) << 32)


@njit(**INLINE)
def _signs(source: int, group: int, word: int) -> Any:
    return load_u8(source + SIGNS + 4 * group + word)


@njit(**INLINE)
def _scale(source: int, group: int, half: int) -> Any:
    return 2 * ((load_u8(source + SCALES + group // 2) >> (4 * (group % 2))) & 15) + 1


@njit(**INLINE)
def decode(source: int, weights: int) -> Any:
    return decode_block(_entry, _signs, _scale, source, load_f16(source + SCALE))


def make_multiply(m: int, build: int) -> Any:
    """The kernel for m rows."""

    @cfunc(MULTIPLY, **KERNEL)
    def multiply_iq3_s(
        weights: int, row_bytes: int, rows: int, columns: int, activations: int, out: int, out_bytes: int
    ) -> Any:
        keyed(build)
        work = (weights, row_bytes, rows, columns, activations, out, out_bytes)
        return multiply(decode, add, total, repeat(zeros_f32x16(), m), GEOMETRY, work)

    return multiply_iq3_s


def make_decode(build: int) -> Any:
    """The plain decoder of one row."""

    @cfunc(DECODE, **KERNEL)
    def decode_iq3_s(source: int, target: int, columns: int) -> int:
        keyed(build)
        for _ in range(columns // 256):
            store_block(_entry, _signs, _scale, source, load_f16(source + SCALE), target)
            source += BYTES
            target += 4 * 256
        return 0

    return decode_iq3_s
