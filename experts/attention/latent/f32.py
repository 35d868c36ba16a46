"""Latent rows in F32."""

from typing import Any

from numba import njit

from experts.attention import f32
from experts.attention.latent.weighted import kernels
from experts.attention.storage import BLOCK
from experts.build import INLINE

load, BYTES = f32.load, f32.BYTES


@njit(**INLINE)
def element(block: int, c: int) -> Any:
    return load(block + BLOCK * BYTES * c)


@njit(**INLINE)
def block_bytes(C: int) -> int:
    return BLOCK * BYTES * C


KERNELS = kernels(f32.KERNELS, element, block_bytes)
