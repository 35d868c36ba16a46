"""Names of devices, and the backends behind them. torch is imported only where a device needs it."""

import ctypes
import importlib.util
import sys
from collections.abc import Mapping
from typing import Protocol

from ..errors import OptionError
from ..placement import HOST
from ..transformer.backend import Backend
from .cpu import CpuBackend
from .memory import DeviceMemory

DEVICES = ("auto", "cpu", "cuda[:N]", "eager:cuda[:N]", "xpu[:N]", "mps", "emulated[:CARD]")
DRIVERS = {  # libraries without which torch cannot see a device of this kind
    "cuda": ("libcuda.so.1", "libamdhip64.so", "nvcuda.dll"),
    "xpu": ("libze_loader.so.1", "ze_loader.dll"),
}


class Device(Backend, Protocol):
    """A backend that knows the memory behind it."""

    def device_memory(self) -> DeviceMemory | None:
        """What can still be had of the device's memory; None for the host."""
        ...


def open_backends(
    device: str, gpu_memory: int | None = None, check_backends: bool = False
) -> tuple[Device, Mapping[str, Backend]]:
    """The backend that runs the model, and those of all devices that tensors can be placed on, by name.

    Args:
        gpu_memory: bytes; how large an emulated card is.
        check_backends: look at every torch operation for tensors that cross where they must not.

    Raises:
        OptionError: no such device.
    """
    host = CpuBackend()
    main = host if (device := resolved(device)) == HOST else _accelerator(device, gpu_memory, check_backends)
    return main, {HOST: host, main.name: main}


def resolved(device: str) -> str:
    """For "auto": cuda if torch can use it and triton is there, else the CPU. What is slow is taken by name only."""
    if device != "auto":
        return device
    if importlib.util.find_spec("triton") and any(_loads(library) for library in DRIVERS["cuda"]):
        import torch

        if torch.cuda.is_available():
            return "cuda"
    return HOST


def usable_accelerators() -> list[str]:
    """Names of all devices that torch can use beside the processor; torch is only asked where a driver is there."""
    candidates = [kind for kind, libraries in DRIVERS.items() if any(_loads(library) for library in libraries)]
    if not candidates and sys.platform != "darwin":
        return []
    import torch

    found = []
    for kind in candidates:
        if (module := getattr(torch, kind)).is_available():
            found += [f"{kind}:{i}" for i in range(module.device_count())]
    return found + (["mps"] if torch.backends.mps.is_available() else [])


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _accelerator(device: str, gpu_memory: int | None, check_backends: bool) -> Device:
    plain = device.removeprefix("eager:")  # torch operations where there are kernels, too
    kind, _, rest = plain.partition(":")
    if device == plain and kind == "emulated":
        from .emulated import open_emulated

        return open_emulated(rest, gpu_memory, check_backends)
    if kind in ("cuda", "xpu", "mps") and (rest.isdecimal() or not rest):
        if device == plain and kind == "cuda":
            from .cuda import open_cuda

            return open_cuda(device, check_backends)
        from .eager import open_torch_device

        return open_torch_device(plain, check_backends)
    raise OptionError(f"device {device!r} is unknown; choose one of {', '.join(DEVICES)}")
