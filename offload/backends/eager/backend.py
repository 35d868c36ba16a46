"""The eager backend: the model's operations in plain torch, on any device that torch has.

Weights stay encoded in device memory and are decoded when they are used. Nothing is fused and nothing is fast; every
row's bits depend on that row alone, and are the same on every device.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

import experts

from ...errors import DeviceMemoryFull, OptionError
from ...ledger import TOKENS, WEIGHTS, Ledger
from ...sampling import DraftStart
from ...transformer.backend import Name, Routed, Work
from ...transformer.config import Routing
from ...transformer.rows import Rows
from ...transformer.weights import DeviceExperts, DeviceMatrix
from ..guard import Guard
from ..handoff import Link, OnHost, Sent
from ..memory import ALLOCATOR_BYTES, PAGE_BYTES, DeviceMemory
from . import norms, router
from .attention import DeviceCache, DeviceLatentCache, attention
from .blocks import FORMATS, IQ4_VALUES
from .drafts import DeviceDraftSampler
from .expand import Expansions
from .memory import free_memory
from .products import Products
from .rows import DeviceRows

PIECE = 1 << 24  # elements that are computed at a time: 64 MiB of float32, and a few times that for scratch


def open_torch_device(device: str, check: bool) -> "EagerBackend":
    """The backend of a device that torch knows.

    Raises:
        OptionError: this torch sees no such device.
    """
    return EagerBackend(device, find_torch_device(device), check)


def find_torch_device(device: str) -> torch.device:
    """The device of this name.

    Raises:
        OptionError: this torch sees no such device.
    """
    kind = device.partition(":")[0]
    module = getattr(torch, kind, None)
    if module is None or not module.is_available():
        raise OptionError(f"device {device!r}: torch {torch.__version__} sees no such device; use --device cpu")
    found = torch.device(device)
    if found.index is not None and found.index >= module.device_count():
        raise OptionError(f"device {device!r}: there are {module.device_count()}; count from 0")
    return found


class EagerBackend:
    reads_back_freely = False
    formats = FORMATS  # that the device decodes; others are kept in one of these

    def __init__(self, name: str, device: torch.device, check: bool, piece: int = PIECE):
        self.name, self.device = name, device
        self.ledger = Ledger()
        self._expansions = Expansions(self.formats)
        self._guard = Guard(self.ledger) if check else None
        self._link = Link(device, self.ledger, self._guard)
        self._piece = piece  # elements that are computed at a time
        self._products = Products(self.upload_vector("values of IQ4", np.array(IQ4_VALUES, np.float32)), piece)

    @property
    def emulated_s(self) -> float:
        return 0.0

    def upload(self, name: str, matrix: experts.Matrix) -> DeviceMatrix:
        matrix = self._expansions.storable(matrix)
        return DeviceMatrix(matrix.format, matrix.rows, matrix.columns, self._registered(name, matrix.data))

    def upload_heads(self, name: str, stack: experts.MatrixStack) -> DeviceMatrix:
        rows = len(stack) * stack.rows
        flat = self.upload(name, experts.Matrix.from_bytes(stack.format, rows, stack.columns, stack.data))
        return DeviceMatrix(flat.format, stack.rows, stack.columns, flat.data.unflatten(0, (len(stack), stack.rows)))

    def upload_experts(
        self, name: str, gate: experts.MatrixStack, up: experts.MatrixStack, down: experts.MatrixStack
    ) -> DeviceExperts:
        return DeviceExperts(*(self.upload_heads(name, stack) for stack in (gate, up, down)))

    def upload_vector(self, name: str, values: np.ndarray) -> Tensor:
        return self._registered(name, values)

    def new_cache(self, name: str, shape_LNGSC: tuple[int, ...], kind: str) -> DeviceCache:
        cache = DeviceCache(self.device, shape_LNGSC, kind)
        if self._guard:
            self._guard.register(f"keys of the {name}", cache.k_LNGSB)
            self._guard.register(f"values of the {name}", cache.v_LNGSB)
        return cache

    def new_latent_cache(self, name: str, shape_LNSC: tuple[int, ...], kind: str) -> DeviceLatentCache:
        cache = DeviceLatentCache(self.device, shape_LNSC, kind)
        if self._guard:
            self._guard.register(f"rows of the {name}", cache.x_LNSB)
        return cache

    def rows(self, rows: Rows) -> DeviceRows:
        packed = np.stack([rows.token_ids, rows.slots, rows.positions]).astype(np.int32)
        return DeviceRows(rows, *self._link.up(TOKENS, packed).to(torch.int64).unbind(0))

    def embed(self, table: DeviceMatrix, token_ids_T: Tensor) -> Tensor:
        return self._products.embed(table, token_ids_T)

    def rms_norm(self, x_TD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
        return norms.rms_norm(x_TD, weight_D, eps)

    def linear(self, x: Tensor, weight: DeviceMatrix, bias: Tensor | None = None) -> Tensor:
        return self._products.linear(x, weight, bias)

    def linear_heads(self, x_THC: Tensor, weight: DeviceMatrix) -> Tensor:
        return self._products.linear_heads(x_THC, weight)

    def swiglu(self, x_TD: Tensor, gate: DeviceMatrix, up: DeviceMatrix, down: DeviceMatrix) -> Tensor:
        return self._products.swiglu(x_TD, gate, up, down)

    def head_norm_rope(
        self, x_THC: Tensor, rows: DeviceRows, table: Tensor, norm_C: Tensor | None, eps: float
    ) -> Tensor:
        return norms.head_norm_rope(x_THC, rows.positions, table, norm_C, eps)

    def attention(self, q_THC: Tensor, cache: DeviceCache, layer: int, rows: DeviceRows) -> Tensor:
        return attention(q_THC, cache, layer, rows, self._piece)

    def latent_attention(self, q_THC: Tensor, cache: DeviceLatentCache, layer: int, rows: DeviceRows) -> Tensor:
        return attention(q_THC, cache, layer, rows, self._piece)

    def route(self, logits_TE: Tensor, bias_E: Tensor, routing: Routing) -> tuple[Tensor, Tensor]:
        return router.route(logits_TE, bias_E, routing)

    def mixture(self, x_TD: Tensor, expert_ids_TK: Tensor, weights_TK: Tensor, layer: DeviceExperts) -> Tensor:
        return self._products.experts(x_TD, expert_ids_TK, weights_TK, layer)

    def send(self, x_TD: Tensor, expert_ids_TK: Tensor, weights_TK: Tensor) -> Sent:
        return self._link.send(x_TD, expert_ids_TK, weights_TK)

    def start_experts(self, sent: Sent, layer: experts.ExpertLayer) -> Routed:
        return self._link.start_experts(sent, layer)

    def receive(self, sums: OnHost) -> Tensor:
        return self._link.receive(sums)

    def replay(self, name: Name, work: Work, rows: DeviceRows, *values: Any) -> tuple[Any, ...]:
        return work(rows, *values)

    def lasting(self, x: Tensor) -> Tensor:
        return x

    def join_features(self, left: Tensor, right: Tensor) -> Tensor:
        return torch.cat([left, right], 1)

    def join_rows(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(parts)) if len(parts) > 1 else parts[0]

    def draft_sampler(self, starts: Sequence[DraftStart]) -> DeviceDraftSampler:
        return DeviceDraftSampler(self._link, starts)

    def to_host(self, role: str, x: Tensor) -> np.ndarray:
        return self._link.down(role, x)

    def device_memory(self) -> DeviceMemory:
        free, overhead = free_memory(self.device), ALLOCATOR_BYTES
        return DeviceMemory(free, self.formats, self._piece, PAGE_BYTES, overhead)

    def notes(self) -> list[str]:
        return [f"{line} on {self.name}" for line in self._expansions.lines()]

    @contextmanager
    def work(self) -> Iterator[None]:
        try:
            with torch.no_grad(), self._guard or nullcontext():
                yield
        except torch.OutOfMemoryError as error:
            raise DeviceMemoryFull(
                f"{self.name} has no memory left: {error}. Lower --context, take another --cache-type, or use --mtp off"
            ) from None

    def _registered(self, name: str, values: np.ndarray) -> Tensor:
        tensor = self._link.up(WEIGHTS, values)
        return self._guard.register(name, tensor) if self._guard else tensor
