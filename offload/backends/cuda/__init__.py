"""Triton kernels that decode quantized blocks in registers: the backend for GPUs of NVIDIA."""

import importlib.util
from typing import TYPE_CHECKING

from ...errors import OptionError

if TYPE_CHECKING:
    from .backend import CudaBackend


def open_cuda(device: str, check: bool) -> "CudaBackend":
    """The backend of `cuda` or `cuda:N`.

    Raises:
        OptionError: triton is not installed, or torch sees no such device.
    """
    if importlib.util.find_spec("triton") is None:
        raise OptionError(
            f"device {device!r}: its kernels need triton, which is not installed. Install it (pip install triton; on "
            f"Windows triton-windows), or take --device eager:{device}: plain torch operations, many times slower"
        )
    from ..eager import find_torch_device
    from .backend import CudaBackend

    return CudaBackend(device, find_torch_device(device), check)
