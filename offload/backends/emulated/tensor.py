"""A torch device made in Python: tensors that say they are on `emulated` and are computed on the host.

It behaves as a GPU does in what tests need: operands on different devices are refused, reading a value back is a copy,
numpy cannot see the memory, and the memory ends. Nothing is emulated of how fast a GPU is.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from .memory import Memory

_setup_privateuseone_for_python_backend("emulated")

DEVICE = torch.device("emulated:0")
MEMORY = Memory()
aten = torch.ops.aten
PLAIN = {int, float, bool, type(None), torch.dtype}  # most arguments


class EmulatedTensor(Tensor):  # type: ignore[misc]
    """A view of, or all of, a storage in emulated memory; `host` is where it really is."""

    host: Tensor

    @staticmethod
    def __new__(cls, host: Tensor) -> "EmulatedTensor":
        held = MEMORY.hold(host)
        self = Tensor._make_wrapper_subclass(
            cls,
            host.shape,
            strides=host.stride(),
            storage_offset=host.storage_offset(),
            dtype=host.dtype,
            device=DEVICE,
        )
        self.host, self._held = host, held
        return self  # type: ignore[no-any-return]

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is aten._to_copy.default:
            return _to_copy(*args, **kwargs)
        if func is aten.copy_.default:
            _on_host(args[0]).copy_(_on_host(args[1]))
            return args[0]
        inner = [x.host if type(x) is EmulatedTensor else _unwrapped(x) for x in args]
        out = func(*inner, **{key: _unwrapped(x) for key, x in kwargs.items()})
        if isinstance(out, Tensor) and args and out is inner[0]:  # in place
            return args[0]
        return _wrapped(out)


def _to_copy(x: Tensor, *, device: torch.device | None = None, **kwargs: Any) -> Tensor:
    """Between devices, or from one element type to another."""
    out = aten._to_copy.default(_on_host(x), **kwargs)
    target = x.device if device is None else device
    return EmulatedTensor(out) if target.type == DEVICE.type else out


def _on_host(x: Tensor) -> Tensor:
    return x.host if isinstance(x, EmulatedTensor) else x


def _unwrapped(x: Any) -> Any:
    if type(x) in PLAIN:
        return x
    if isinstance(x, EmulatedTensor):
        return x.host
    if isinstance(x, Tensor):
        if x.dim() == 0:  # a number, as on CUDA
            return x
        raise RuntimeError(f"expected all tensors to be on the same device, but found {DEVICE} and {x.device}")
    if isinstance(x, torch.device):
        return torch.device("cpu")
    if isinstance(x, list | tuple):
        return type(x)(_unwrapped(part) for part in x)
    return x


def _wrapped(x: Any) -> Any:
    if isinstance(x, Tensor):
        return EmulatedTensor(x)
    if isinstance(x, list | tuple):
        return type(x)(_wrapped(part) for part in x)
    return x


def _empty(size: Any, *, dtype: Any = None, **_: Any) -> Tensor:
    return EmulatedTensor(torch.empty(size, dtype=dtype))


def _empty_strided(size: Any, stride: Any, *, dtype: Any = None, **_: Any) -> Tensor:
    return EmulatedTensor(torch.empty_strided(size, stride, dtype=dtype))


_library = torch.library.Library("aten", "IMPL")
_library.impl("empty.memory_format", _empty, "PrivateUse1")
_library.impl("empty_strided", _empty_strided, "PrivateUse1")
