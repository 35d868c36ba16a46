"""Tasks that read and copy memory as the expert kernels do, 64 bytes at a time.

A piece is read in four streams: one stream alone keeps too few lines on their way, and reads a fifth less on one core
(Zen 4: 21.3 against 25.5 GB/s; torch's and numpy's sums, which share no code with this, 24.1 and 24.3).
"""

from functools import cache
from typing import Any

from numba import cfunc, njit

from experts.build import INLINE, KERNEL, build_key, keyed
from experts.kernels import keep
from experts.plans.tasks import TASK, field
from experts.simd.vec import load_i8x64, store

STEP_BYTES = 256  # pieces are multiples of it

# The fields of a context; item = a piece of PIECE_BYTES at SOURCE + PIECE_BYTES * item.
SOURCE, TARGET, PIECE_BYTES, REPEATS = range(4)


@njit(**INLINE)
def _xor(source: int, num_bytes: int, repeats: int) -> Any:
    a, b, c, d = load_i8x64(source), load_i8x64(source), load_i8x64(source), load_i8x64(source)
    quarter = num_bytes // 4
    second, third, fourth = source + quarter, source + 2 * quarter, source + 3 * quarter
    for _ in range(repeats):
        for offset in range(0, quarter, 64):
            a = a ^ load_i8x64(source + offset)
            b = b ^ load_i8x64(second + offset)
            c = c ^ load_i8x64(third + offset)
            d = d ^ load_i8x64(fourth + offset)
    return (a ^ b) ^ (c ^ d)


@cache
def read_task() -> int:
    """Reads every byte of one piece, REPEATS times, and stores its xor in 64 bytes at TARGET + 64 * item."""
    build = build_key()

    @cfunc(TASK, **KERNEL)
    def read(context: int, item: int) -> int:
        keyed(build)
        num_bytes = field(context, PIECE_BYTES)
        total = _xor(field(context, SOURCE) + item * num_bytes, num_bytes, field(context, REPEATS))
        store(field(context, TARGET) + 64 * item, total)
        return 0

    return keep(read)


@cache
def copy_task() -> int:
    """Copies one piece to TARGET + PIECE_BYTES * item."""
    build = build_key()

    @cfunc(TASK, **KERNEL)
    def copy(context: int, item: int) -> int:
        keyed(build)
        start = item * field(context, PIECE_BYTES)
        source, target = field(context, SOURCE) + start, field(context, TARGET) + start
        for offset in range(0, field(context, PIECE_BYTES), STEP_BYTES):
            for line in range(offset, offset + STEP_BYTES, 64):
                store(target + line, load_i8x64(source + line))
        return 0

    return keep(copy)


@cache
def empty_task() -> int:
    """Does nothing."""
    build = build_key()

    @cfunc(TASK, **KERNEL)
    def empty(context: int, item: int) -> int:
        keyed(build)
        return 0

    return keep(empty)
