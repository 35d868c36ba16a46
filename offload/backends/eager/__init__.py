"""Plain torch operations on any torch device: the backend for devices without kernels of their own."""

from .backend import EagerBackend, find_torch_device, open_torch_device

__all__ = ["EagerBackend", "find_torch_device", "open_torch_device"]
