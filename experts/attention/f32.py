"""F32 caches: float32 as it is."""

from typing import Any

from numba import cfunc, njit

from experts.attention import floats
from experts.attention.frame import attend
from experts.attention.write import store_row
from experts.build import INLINE, KERNEL, keyed
from experts.frame import repeat
from experts.tasks import TASK
from experts.vec import load_f32x16, store, zeros_f32x16

BYTES = 4


@njit(**INLINE)
def load(address: int) -> Any:
    return load_f32x16(address)


@njit(**INLINE)
def save(address: int, values: Any) -> None:
    store(address, values)


@njit(**INLINE)
def scores(zeros: Any, work: Any) -> None:
    floats.scores(load, BYTES, zeros, work)


@njit(**INLINE)
def weighted(zeros: Any, work: Any) -> None:
    floats.weighted(load, BYTES, zeros, work)


@njit(**INLINE)
def encode(source: int, target: int, C: int) -> None:
    floats.encode(save, BYTES, source, target, C)


def make_attend(m: int, width: int, build: int) -> Any:
    """The task for tiles of m queries and `width` vectors."""

    @cfunc(TASK, **KERNEL)
    def attend_f32(context: int, item: int) -> Any:
        keyed(build)
        return attend(floats.prepare, scores, weighted, repeat(repeat(zeros_f32x16(), width), m), context, item)

    return attend_f32


def make_write(build: int) -> Any:
    """The task that stores rows."""

    @cfunc(TASK, **KERNEL)
    def write_f32(context: int, item: int) -> Any:
        keyed(build)
        return store_row(encode, floats.place_words, context, item)

    return write_f32
