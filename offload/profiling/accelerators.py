"""An accelerator by itself: its memory's read bandwidth, half-precision products, and what launching a kernel costs."""

from typing import Any

import torch

from ..hardware import Accelerator
from .links import synchronizer
from .samples import in_turn

READ_BYTES = 1 << 30
SIDE = 4096  # of the matrices that are multiplied
LAUNCHES = 200


def measure_accelerator(device: torch.device, budget_s: float, side: int = SIDE) -> Accelerator:
    """Reads a matrix as a product with a vector does, multiplies matrices, adds numbers one by one."""
    wait, half = synchronizer(device), torch.float16
    memory_bytes = _memory_bytes(device)
    read_bytes = min(READ_BYTES, memory_bytes // 8)
    columns = 8192
    weights = torch.zeros(read_bytes // (2 * columns), columns, dtype=half, device=device)
    vector = torch.zeros(columns, dtype=half, device=device)
    square = torch.zeros(side, side, dtype=half, device=device)
    one = torch.zeros(1, device=device)

    def read() -> None:
        weights.mv(vector)
        wait()

    def multiply() -> None:
        square @ square
        wait()

    def launch() -> None:
        for _ in range(LAUNCHES):
            one.add_(1)
        wait()

    samples = in_turn({"read": read, "multiply": multiply, "launch": launch}, budget_s)
    return Accelerator(
        _name(device),
        memory_bytes,
        samples["read"].rate(weights.nbytes),
        samples["multiply"].rate(2.0 * side**3),
        samples["launch"].median / LAUNCHES,
    )


def _name(device: torch.device) -> str:
    module: Any = getattr(torch, device.type)
    return str(module.get_device_name(device)) if hasattr(module, "get_device_name") else device.type


def _memory_bytes(device: torch.device) -> int:
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory())
    module: Any = getattr(torch, device.type)
    return int(module.get_device_properties(device).total_memory)
