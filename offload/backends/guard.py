"""Looks at every torch operation for tensors that change the device outside the hand-off (`--check-backends`).

The third check that MTP tensors never cross: the plan says where they stand, the ledger counts what the hand-off moves,
and this sees what goes around both. It slows every operation down, so it is on in tests and when asked for.
"""

import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ..ledger import CrossingError, Ledger

OURS = {str(Path(__file__)), str(Path(__file__).parent / "emulated" / "tensor.py")}
READS_ONE_NUMBER = torch.ops.aten._local_scalar_dense.default


class Guard(TorchDispatchMode):  # type: ignore[misc]
    """Raises on any operation that moves a tensor to another device, unless the hand-off moves one that may.

    Weights and caches never may; while the drafter works nothing of its own may but the tokens.
    """

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self._ledger = ledger
        self._names: dict[int, str] = {}  # by the address of the storage
        self._handing_off = False

    def register(self, name: str, tensor: Tensor) -> Tensor:
        """Never lets this tensor, nor a view of it, leave its device."""
        self._names[_storage(tensor)] = name
        return tensor

    @contextmanager
    def hand_off(self) -> Iterator[None]:
        """While the hand-off moves something; entered by nothing else."""
        self._handing_off = True
        try:
            yield
        finally:
            self._handing_off = False

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # what torch would put around every operation: nothing is compiled here

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        inputs, outputs = list(_tensors(args)), list(_tensors((out,)))
        # a CPU tensor without dimensions is a number that goes along with the operation, as on CUDA
        devices = {x.device for x in (*inputs, *outputs) if x.dim() or x.device.type != "cpu"}
        if func is READS_ONE_NUMBER and devices:
            devices.add(torch.device("cpu"))
        if len(devices) > 1:
            self._check(func, inputs)
        return out

    def _check(self, func: Any, inputs: list[Tensor]) -> None:
        for x in inputs:
            name = self._names.get(_storage(x))
            if name:
                raise CrossingError(f"{name} {_moved(func, x)}")
        if not self._handing_off:
            whose = "the drafter" if self._ledger.is_drafting else "the model"
            moved = [x for x in inputs if x.device.type != "cpu"] or inputs
            raise CrossingError(f"a tensor of {whose} {_moved(func, moved[0])}")


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _moved(func: Any, x: Tensor) -> str:
    shape = ", ".join(map(str, x.shape))
    return f"({str(x.dtype).removeprefix('torch.')}, ({shape})) left {x.device} by {func} at {_call_site()}"


def _storage(tensor: Tensor) -> int:
    """Address of the memory behind a tensor; an emulated one has it on the host."""
    return int(getattr(tensor, "host", tensor).untyped_storage().data_ptr())


def _call_site() -> str:
    """The innermost line that is neither torch's nor the machinery's."""
    torch_folder = str(Path(torch.__file__).parent)
    for frame in reversed(traceback.extract_stack()):
        if frame.filename not in OURS and not frame.filename.startswith(torch_folder):
            return f"{frame.filename}:{frame.lineno} in {frame.name}: {frame.line}"
    return "an unknown place"
