"""Latent rows in F16."""

from typing import Any

from numba import njit

from experts.attention import f16
from experts.attention.latent.weighted import kernels
from experts.attention.storage import BLOCK
from experts.build import INLINE

load, BYTES = f16.load, f16.BYTES


@njit(**INLINE)
def element(block: int, c: int) -> Any:
    return load(block + BLOCK * BYTES * c)


@njit(**INLINE)
def block_bytes(C: int) -> int:
    return BLOCK * BYTES * C


KERNELS = kernels(f16.KERNELS, element, block_bytes)
