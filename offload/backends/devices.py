"""Names of devices, and the backends behind them. torch is imported only where a device needs it."""

import ctypes
import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import OptionError
from ..placement import HOST
from ..planning.options import PlacementOptions
from .cpu import CpuBackend
from .protocol import Backend

DEVICES = ("auto", "cpu", "cuda[:N]", "eager:cuda[:N]", "xpu[:N]", "mps", "emulated[:CARD]")
DRIVERS = {  # libraries without which torch cannot see a device of this kind
    "cuda": ("libcuda.so.1", "libamdhip64.so", "nvcuda.dll"),
    "xpu": ("libze_loader.so.1", "ze_loader.dll"),
}


@dataclass(frozen=True)
class DeviceOptions(PlacementOptions):
    """What a user can say about devices."""

    device: str = "auto"  # runs everything but the routed experts that do not fit beside it
    mtp: str = "auto"  # "on" insists on the MTP block, "off" leaves it out of memory
    draft_model: str | Path | None = None  # a small model that drafts in place of the MTP block, on the device
    check_backends: bool = False  # look at every torch operation for tensors that cross where they must not

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.draft_model is not None and self.mtp == "on":
            raise OptionError("mtp is on and there is a draft_model: one of them drafts, leave the other out")

    @property
    def mtp_mode(self) -> str:
        """Whether to load the MTP block: not where a draft model takes its place."""
        return self.mtp if self.draft_model is None else "off"


def open_backends(options: DeviceOptions) -> tuple[Backend, Mapping[str, Backend]]:
    """The backend that runs the model, and those of all devices that tensors can be placed on, by name.

    Raises:
        OptionError: no such device.
    """
    host = CpuBackend()
    main = host if (device := resolved(options.device)) == HOST else _accelerator(device, options)
    if main is host and (options.gpu_memory is not None or options.gpu_expert_layers):
        raise OptionError("gpu_memory and gpu_expert_layers are for an accelerator: choose one by --device")
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


def _accelerator(device: str, options: DeviceOptions) -> Backend:
    plain = device.removeprefix("eager:")  # torch operations where there are kernels, too
    kind, _, rest = plain.partition(":")
    if device == plain and kind == "emulated":
        from .emulated import open_emulated

        return open_emulated(rest, options.gpu_memory, options.check_backends)
    if kind in ("cuda", "xpu", "mps") and (rest.isdecimal() or not rest):
        if device == plain and kind == "cuda":
            from .cuda import open_cuda

            return open_cuda(device, options.check_backends)
        from .eager import open_torch_device

        return open_torch_device(plain, options.check_backends)
    raise OptionError(f"device {device!r} is unknown; choose one of {', '.join(DEVICES)}")
