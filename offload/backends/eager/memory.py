"""Free memory of the devices that torch knows."""

import torch


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be had, or None where the device does not tell."""
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    if device.type not in ("cuda", "xpu"):
        return None
    module = getattr(torch, device.type)
    free, _ = module.mem_get_info(device)
    return int(free + module.memory_reserved(device) - module.memory_allocated(device))
