"""What latent rows in the float types share: a block is C vectors of 16 positions."""

from typing import Any

from numba import njit

from experts.attention.frame import CacheKernels
from experts.attention.latent import weighted
from experts.attention.storage import BLOCK
from experts.build import INLINE


def kernels(of: CacheKernels, load: Any, element_bytes: int) -> CacheKernels:
    """Of a type with these kernels for keys; `load(address)` gives 16 elements as float32."""

    @njit(**INLINE)
    def element(block: int, c: int) -> Any:
        return load(block + BLOCK * element_bytes * c)

    @njit(**INLINE)
    def block_bytes(C: int) -> int:
        return BLOCK * element_bytes * C

    return weighted.kernels(of, element, block_bytes)
