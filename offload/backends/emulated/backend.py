"""The eager backend on the emulated device, with a clock that charges what a card's own kernels would take."""

import time

import numpy as np
import torch
from torch import Tensor

import experts

from ...costs import kv_bytes
from ...cuts import Cut, take_all
from ...errors import OptionError
from ...hardware.cards import CARDS, DEFAULT_CARD, Card
from ...transformer.backend import Routed
from ...transformer.weights import DeviceExperts, DeviceMatrix
from ..eager.attention import DeviceCache, DeviceLatentCache
from ..eager.backend import EagerBackend
from ..eager.rows import DeviceRows
from ..handoff import OnHost, Sent
from ..memory import DeviceMemory
from .clock import Clock

PIECE = 1 << 20  # 4 MiB of float32: what a processor's caches like


def open_emulated(card: str, memory_bytes: int | None, check: bool) -> "EmulatedBackend":
    """The emulated device as a card of this name, with its memory unless another size is given.

    Raises:
        OptionError: an unknown card, or a torch that cannot make devices in Python.
    """
    if card and card not in CARDS:
        raise OptionError(f"no card {card!r} is known to be emulated; choose one of {', '.join(CARDS)}")
    chosen = CARDS[card or DEFAULT_CARD]
    return EmulatedBackend(chosen, chosen.memory_bytes if memory_bytes is None else memory_bytes, check)


class TimedExperts:
    """Experts on the host, with the time that they take."""

    def __init__(self, routed: Routed, clock: Clock):
        self._routed, self._clock = routed, clock

    @property
    def expert_ids_TK(self) -> np.ndarray:
        return self._routed.expert_ids_TK

    @property
    def kept(self) -> list[slice] | None:
        return self._routed.kept

    def wait(self, cut: Cut = take_all) -> OnHost:
        started = time.perf_counter()
        sums: OnHost = self._routed.wait(cut)
        self._clock.host_s += time.perf_counter() - started
        return sums


class EmulatedBackend(EagerBackend):
    """All of a process share one device and its memory; the last one opened says how much that is."""

    def __init__(self, card: Card, memory_bytes: int, check: bool):
        from .tensor import DEVICE, MEMORY

        # torch's idle threads spin: with other work on two cores its operations took ten times as long on two of them
        torch.set_num_threads(1)
        self.memory = MEMORY
        self.memory.limit_bytes = memory_bytes
        self.clock = Clock(card)
        super().__init__("emulated", DEVICE, check, PIECE)
        self.ledger.on_transfer = self.clock.transfer

    @property
    def emulated_s(self) -> float:
        return self.clock.total_s

    def device_memory(self) -> DeviceMemory:
        limit = self.memory.limit_bytes
        free = None if limit is None else limit - self.memory.used_bytes
        return DeviceMemory(free, self.formats, self._piece)

    def embed(self, table: DeviceMatrix, token_ids_T: Tensor) -> Tensor:
        self.clock.kernel(len(token_ids_T) * _row_bytes(table), 0)
        return super().embed(table, token_ids_T)

    def linear(self, x: Tensor, weight: DeviceMatrix, bias: Tensor | None = None) -> Tensor:
        self._charge_product(len(x), weight)
        return super().linear(x, weight, bias)

    def swiglu(self, x_TD: Tensor, gate: DeviceMatrix, up: DeviceMatrix, down: DeviceMatrix) -> Tensor:
        for weight in (gate, up, down):
            self._charge_product(len(x_TD), weight)
        return super().swiglu(x_TD, gate, up, down)

    def attention(self, q_THC: Tensor, cache: DeviceCache, layer: int, rows: DeviceRows) -> Tensor:
        read = kv_bytes(cache, rows.host) // cache.num_layers
        self.clock.kernel(read, 4 * int((rows.host.positions + 1).sum()) * q_THC[0].numel())
        return super().attention(q_THC, cache, layer, rows)

    def linear_heads(self, x_THC: Tensor, weight: DeviceMatrix) -> Tensor:
        num_heads = len(weight.data)
        self.clock.kernel(num_heads * weight.rows * _row_bytes(weight), 2 * x_THC.numel() * weight.rows)
        return super().linear_heads(x_THC, weight)

    def latent_attention(self, q_THC: Tensor, cache: DeviceLatentCache, layer: int, rows: DeviceRows) -> Tensor:
        read = kv_bytes(cache, rows.host) // cache.num_layers
        self.clock.kernel(read, 4 * int((rows.host.positions + 1).sum()) * q_THC[0].numel())
        return super().latent_attention(q_THC, cache, layer, rows)

    def mixture(self, x_TD: Tensor, expert_ids_TK: Tensor, weights_TK: Tensor, layer: DeviceExperts) -> Tensor:
        for part in (layer.gate, layer.up, layer.down):
            num_weights = expert_ids_TK.numel() * part.rows * part.columns
            self.clock.kernel(expert_ids_TK.numel() * part.rows * _row_bytes(part), 2 * num_weights)
        return super().mixture(x_TD, expert_ids_TK, weights_TK, layer)

    def start_experts(self, sent: Sent, layer: experts.ExpertLayer) -> Routed:
        return TimedExperts(super().start_experts(sent, layer), self.clock)

    def _charge_product(self, num_rows: int, weight: DeviceMatrix) -> None:
        self.clock.kernel(weight.rows * _row_bytes(weight), 2 * num_rows * weight.rows * weight.columns)


def _row_bytes(weight: DeviceMatrix) -> int:
    return int(weight.data.shape[-1])
