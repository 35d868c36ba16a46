"""Plain torch operations on any torch device: the backend for devices without kernels of their own."""

from .backend import EagerBackend, open_torch_device

__all__ = ["EagerBackend", "open_torch_device"]
