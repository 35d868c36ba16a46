"""Latent rows in BF16."""

from typing import Any

from numba import njit

from experts.attention import bf16
from experts.attention.latent.weighted import kernels
from experts.attention.storage import BLOCK
from experts.build import INLINE

load, BYTES = bf16.load, bf16.BYTES


@njit(**INLINE)
def element(block: int, c: int) -> Any:
    return load(block + BLOCK * BYTES * c)


@njit(**INLINE)
def block_bytes(C: int) -> int:
    return BLOCK * BYTES * C


KERNELS = kernels(bf16.KERNELS, element, block_bytes)
