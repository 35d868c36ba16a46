"""The one file where anything crosses between an accelerator and the host; each transfer is booked in the ledger.

For every layer with routed experts in RAM: activations and routing go down, the experts compute on the host, their
weighted sums come up. What does not depend on them (the shared expert) is queued on the device in between. On CUDA all
of it goes through pinned buffers, in the order of the device's other work; elsewhere transfers are plain copies.

`send` and `receive` may be recorded and replayed (cuda/graphs.py), so what they move is booked where the host waits for
it. A buffer is used again in the next layer. By then it is free: the host has waited for what came down before it
computes, and what went up is done before the device can compute the rows that it sends next.

Shapes: T rows, D hidden, K experts per row.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

import experts

from ..cuts import Cut, take_all, taken
from ..ledger import DOWN, HIDDEN, ROUTING, SUMS, UP, Ledger

MOST_REPLAYED = 16  # rows of work that is replayed: their buffers stay where they are


class Watch(Protocol):
    """Sees every torch operation, and is told which of them are the hand-off's own."""

    def hand_off(self) -> Any:
        """A context in which tensors may change the device."""
        ...


@dataclass(frozen=True)
class Sent:
    """Rows for experts of the host, in its memory; there as soon as the device has done what was queued before."""

    x_TD: np.ndarray  # float32
    expert_ids_TK: np.ndarray  # int32
    weights_TK: np.ndarray  # float32


@dataclass(frozen=True)
class OnHost:
    """What the host has computed for the device."""

    values_TD: Tensor


class Link:
    """Between one device and the host."""

    def __init__(self, device: torch.device, ledger: Ledger, watch: Watch | None = None):
        self.device, self.ledger = device, ledger
        self._watch = watch
        self._lane = _Lane() if device.type == "cuda" else None

    def up(self, role: str, values: np.ndarray) -> Tensor:
        """Takes an array to the device."""
        with self._booked(role, UP, values.nbytes):
            host = torch.from_numpy(np.require(values, requirements=("C", "W")))
            return host.to(self.device, non_blocking=self._lane is not None)  # CUDA has read it when this returns

    def down(self, role: str, x: Tensor) -> np.ndarray:
        """Reads a tensor back, when the device has computed it."""
        with self._booked(role, DOWN, x.nbytes):
            if self._lane is None:
                return x.cpu().numpy()  # type: ignore[no-any-return]
            host = self._lane.down(role, x)
            self._lane.mark()
            self._lane.wait()
            return host.numpy().copy()  # type: ignore[no-any-return]

    def send(self, x_TD: Tensor, expert_ids_TK: Tensor, weights_TK: Tensor) -> Sent:
        """Sets rows and their routing going; the device goes on with what is queued behind them."""
        with self._handing_off():
            parts = (("hidden", x_TD), ("ids", expert_ids_TK), ("weights", weights_TK))
            return Sent(*((self._lane.down(name, x) if self._lane else x.cpu()).numpy() for name, x in parts))

    def start_experts(self, sent: Sent, layer: experts.ExpertLayer) -> "RoutedOnHost":
        """These experts for the rows that were sent last."""
        self.ledger.add(HIDDEN, DOWN, sent.x_TD.nbytes)
        self.ledger.add(ROUTING, DOWN, sent.expert_ids_TK.nbytes + sent.weights_TK.nbytes)
        self.mark()
        return RoutedOnHost(self, sent, layer)

    def mark(self) -> None:
        """Behind what is queued so far: `arrived` waits for that."""
        if self._lane:
            self._lane.mark()

    def arrived(self) -> None:
        """Returns when what was sent before the mark is there."""
        if self._lane:
            self._lane.wait()

    def buffer(self, rows: int, columns: int) -> Tensor:
        """float32 (rows, columns) on the host that results for the device are computed into."""
        if self._lane is None:
            return torch.empty((rows, columns))
        return self._lane.buffer(SUMS, (rows, columns), torch.float32)

    def receive(self, sums: OnHost) -> Tensor:
        """Takes what the host computed to the device, without waiting for the transfer where that can be."""
        with self._handing_off():
            return sums.values_TD.to(self.device, non_blocking=self._lane is not None)

    @contextmanager
    def _booked(self, role: str, direction: str, num_bytes: int) -> Iterator[None]:
        self.ledger.add(role, direction, num_bytes)
        with self._handing_off():
            yield

    def _handing_off(self) -> Any:
        return self._watch.hand_off() if self._watch else nullcontext()


class RoutedOnHost:
    """Routed experts of one layer on the host, for rows on the device."""

    def __init__(self, link: Link, sent: Sent, layer: experts.ExpertLayer):
        self._link, self._sent, self._layer = link, sent, layer
        self.expert_ids_TK = np.empty((0, 0), np.int32)  # known from `wait` on
        self.kept: list[slice] | None = None

    def wait(self, cut: Cut = take_all) -> OnHost:
        """Weighted sums (T, D) of the rows that `cut` keeps, to be received."""
        self._link.arrived()
        x_TD, weights_TK = self._sent.x_TD, self._sent.weights_TK
        self.expert_ids_TK = self._sent.expert_ids_TK.copy()  # what it arrived in is used again
        kept = self.kept = cut(self.expert_ids_TK)
        if kept is not None:
            self.expert_ids_TK = taken(self.expert_ids_TK, kept)
            x_TD, weights_TK = taken(x_TD, kept), taken(weights_TK, kept)
        sums = OnHost(self._link.buffer(*x_TD.shape))
        experts.moe_ffn(x_TD, self.expert_ids_TK, weights_TK, self._layer, out=sums.values_TD.numpy())
        self._link.ledger.add(SUMS, UP, x_TD.nbytes)
        return sums


class _Lane:
    """Pinned buffers of CUDA (or ROCm) and the event that the host waits for."""

    def __init__(self) -> None:
        self._event = torch.cuda.Event()
        self._lasting: dict[tuple[str, tuple[int, ...]], Tensor] = {}
        self._growing: dict[str, Tensor] = {}

    def down(self, name: str, x: Tensor) -> Tensor:
        host = self.buffer(name, tuple(x.shape), x.dtype)
        host.copy_(x, non_blocking=True)
        return host

    def mark(self) -> None:
        """`wait` waits for what is queued so far."""
        self._event.record()

    def wait(self) -> None:
        self._event.synchronize()

    def buffer(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Page-locked memory: of few rows always the same, so that work on it can be replayed."""
        if shape[0] <= MOST_REPLAYED:
            if (name, shape) not in self._lasting:
                self._lasting[name, shape] = torch.empty(shape, dtype=dtype, pin_memory=True)
            return self._lasting[name, shape]
        num_bytes = int(np.prod(shape)) * dtype.itemsize
        buffer = self._growing.get(name)
        if buffer is None or buffer.nbytes < num_bytes:
            buffer = self._growing[name] = torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True)
        return buffer[:num_bytes].view(dtype).view(shape)
