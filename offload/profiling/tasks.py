"""Tasks that read and copy memory as the expert kernels do, 64 bytes at a time, four lines in flight."""

from functools import cache
from typing import Any

from numba import cfunc, njit

from experts.build import INLINE, KERNEL, build_key, keyed
from experts.kernels import keep
from experts.tasks import TASK, field
from experts.vec import load_i8x64, store

STEP_BYTES = 256

# The fields of a context; item = a piece of PIECE_BYTES at SOURCE + PIECE_BYTES * item.
SOURCE, TARGET, PIECE_BYTES, REPEATS = range(4)


@njit(**INLINE)
def _xor(source: int, num_bytes: int, repeats: int) -> Any:
    a, b, c, d = load_i8x64(source), load_i8x64(source), load_i8x64(source), load_i8x64(source)
    for _ in range(repeats):
        for offset in range(0, num_bytes, STEP_BYTES):
            a = a ^ load_i8x64(source + offset)
            b = b ^ load_i8x64(source + offset + 64)
            c = c ^ load_i8x64(source + offset + 128)
            d = d ^ load_i8x64(source + offset + 192)
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
