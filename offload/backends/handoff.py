"""The one file where anything crosses between an accelerator and the host; each transfer is booked in the ledger.

For every layer with routed experts in RAM: activations and routing go down, the experts compute on the host, their
weighted sums come up. What does not depend on them (the shared expert) is queued on the device in between. On CUDA the
transfers run on a stream of their own through pinned buffers (run on an H100); elsewhere they are plain copies.

Shapes: T rows, D hidden, K experts per row.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

import experts

from ..cuts import Cut, take_all, taken
from .ledger import DOWN, HIDDEN, ROUTING, SUMS, UP, Ledger


class Watch(Protocol):
    """Sees every torch operation, and is told which of them are the hand-off's own."""

    def hand_off(self) -> Any:
        """A context in which tensors may change the device."""
        ...


class Link:
    """Between one device and the host."""

    def __init__(self, device: torch.device, ledger: Ledger, watch: Watch | None = None):
        self.device, self.ledger = device, ledger
        self._watch = watch
        self._lane = _Lane(device) if device.type == "cuda" else None

    def up(self, role: str, values: np.ndarray) -> Tensor:
        """Takes an array to the device."""
        with self._booked(role, UP, values.nbytes):
            return torch.from_numpy(np.require(values, requirements=("C", "W"))).to(self.device)

    def down(self, role: str, x: Tensor) -> np.ndarray:
        """Reads a tensor back, when the device has computed it."""
        return self.start_down(role, x).wait().copy()  # what it arrived in is used again

    def start_down(self, role: str, x: Tensor) -> "_Arriving":
        """Sets a read-back going; the device goes on with what is queued behind it."""
        with self._booked(role, DOWN, x.nbytes):
            return self._lane.down(role, x) if self._lane else _Arriving(x.cpu())

    def up_from(self, role: str, buffer: np.ndarray) -> Tensor:
        """Takes rows to the device that were computed into `buffer(role, ...)`, without waiting for the transfer."""
        if self._lane is None:
            return self.up(role, buffer)
        with self._booked(role, UP, buffer.nbytes):
            return self._lane.up(role, buffer.shape)

    def buffer(self, role: str, rows: int, columns: int) -> np.ndarray:
        """float32 (rows, columns) that results for the device are computed into; pinned where that helps."""
        if self._lane is None:
            return np.empty((rows, columns), np.float32)
        return self._lane.host_rows(role, (rows, columns))

    def start_experts(
        self, x_TD: Tensor, expert_ids_TK: Tensor, weights_TK: Tensor, layer: experts.ExpertLayer
    ) -> "RoutedOnHost":
        return RoutedOnHost(self, x_TD, expert_ids_TK, weights_TK, layer)

    @contextmanager
    def _booked(self, role: str, direction: str, num_bytes: int) -> Iterator[None]:
        self.ledger.add(role, direction, num_bytes)
        with self._watch.hand_off() if self._watch else nullcontext():
            yield


class RoutedOnHost:
    """Routed experts of one layer on the host, for rows on the device."""

    def __init__(self, link: Link, x_TD: Tensor, expert_ids_TK: Tensor, weights_TK: Tensor, layer: experts.ExpertLayer):
        self._link, self._layer = link, layer
        self._hidden = link.start_down(HIDDEN, x_TD)
        self._routing = link.start_down(ROUTING, torch.cat([expert_ids_TK, weights_TK.view(torch.int32)], 1))
        self.expert_ids_TK = np.empty((0, 0), np.int32)  # known from `wait` on
        self.kept: list[slice] | None = None

    def wait(self, cut: Cut = take_all) -> Tensor:
        """Weighted sums (T, D) on the device, of the rows that `cut` keeps."""
        routing, x_TD = self._routing.wait(), self._hidden.wait()
        K = routing.shape[1] // 2
        self.expert_ids_TK = routing[:, :K].copy()
        weights_TK = routing[:, K:].copy().view(np.float32)
        kept = self.kept = cut(self.expert_ids_TK)
        if kept is not None:
            self.expert_ids_TK, weights_TK = taken(self.expert_ids_TK, kept), taken(weights_TK, kept)
            x_TD = taken(x_TD, kept)
        sums_TD = self._link.buffer(SUMS, *x_TD.shape)
        experts.moe_ffn(x_TD, self.expert_ids_TK, weights_TK, self._layer, out=sums_TD)
        return self._link.up_from(SUMS, sums_TD)


class _Arriving:
    """A tensor on its way to the host."""

    def __init__(self, host: Tensor, event: Any = None):
        self._host, self._event = host, event

    def wait(self) -> np.ndarray:
        if self._event is not None:
            self._event.synchronize()
        return self._host.numpy()  # type: ignore[no-any-return]


class _Lane:
    """Pinned buffers and a stream of CUDA (or ROCm), one buffer for each role and direction.

    A buffer is used again in the next layer. By then it is free: the host has waited for what came down before it
    computes, and what went up is done before the device can compute the rows that the next transfer brings down.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._buffers: dict[tuple[str, str], Tensor] = {}

    def down(self, role: str, x: Tensor) -> _Arriving:
        x = x.contiguous()
        host = self._pinned(role, DOWN, x.nbytes).view(x.dtype).view(x.shape)
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            host.copy_(x, non_blocking=True)
            x.record_stream(self._stream)
            return _Arriving(host, self._stream.record_event())

    def host_rows(self, role: str, shape: tuple[int, int]) -> np.ndarray:
        return self._host_rows(role, shape).numpy()  # type: ignore[no-any-return]

    def up(self, role: str, shape: tuple[int, ...]) -> Tensor:
        current = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._stream):
            x = self._host_rows(role, shape).to(self._device, non_blocking=True)
        current.wait_stream(self._stream)
        x.record_stream(current)
        return x

    def _host_rows(self, role: str, shape: tuple[int, ...]) -> Tensor:
        return self._pinned(role, UP, 4 * shape[0] * shape[1]).view(torch.float32).view(shape)

    def _pinned(self, role: str, direction: str, num_bytes: int) -> Tensor:
        """uint8 (num_bytes,) of page-locked memory; grows as needed."""
        buffer = self._buffers.get((role, direction))
        if buffer is None or buffer.nbytes < num_bytes:
            buffer = self._buffers[role, direction] = torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True)
        return buffer[:num_bytes]
