"""The cuda backend: Triton kernels for what takes time, the eager backend's operations for the rest.

The kernels know nothing of CUDA but its name: with TRITON_INTERPRET=1 they run on tensors of the CPU.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...transformer.backend import Name, Work
from ...transformer.config import Routing
from ..eager.attention import DeviceCache, DeviceLatentCache
from ..eager.backend import EagerBackend
from ..eager.rows import DeviceRows
from ..memory import REPLAY_BYTES, TEMPORARIES, DeviceMemory
from . import norms, router
from .attention import SCRATCH, attention, num_ranges
from .blocks import FORMATS
from .graphs import GraphRecorder, Graphs
from .products import TritonProducts


class CudaBackend(EagerBackend):
    formats = FORMATS

    def __init__(self, name: str, device: torch.device, check: bool):
        super().__init__(name, device, check, SCRATCH // TEMPORARIES)  # what the plan reserves for a step
        self._products = TritonProducts()
        self.graphs = Graphs(GraphRecorder(device)) if device.type == "cuda" else None

    def rms_norm(self, x_TD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
        return norms.rms_norm(x_TD, weight_D, eps)

    def head_norm_rope(
        self, x_THC: Tensor, rows: DeviceRows, table: Tensor, norm_C: Tensor | None, eps: float
    ) -> Tensor:
        return norms.head_norm_rope(x_THC, rows.positions, table, norm_C, eps)

    def attention(self, q_THC: Tensor, cache: DeviceCache, layer: int, rows: DeviceRows) -> Tensor:
        return attention(q_THC, cache, layer, rows)

    def latent_attention(self, q_THC: Tensor, cache: DeviceLatentCache, layer: int, rows: DeviceRows) -> Tensor:
        return attention(q_THC, cache, layer, rows)

    def route(self, logits_TE: Tensor, bias_E: Tensor, routing: Routing) -> tuple[Tensor, Tensor]:
        return router.route(logits_TE, bias_E, routing)

    def replay(self, name: Name, work: Work, rows: DeviceRows, *values: Any) -> tuple[Any, ...]:
        if self.graphs is None:
            return work(rows, *values)
        return self.graphs.run(name, work, rows, num_ranges(rows), *values)

    def lasting(self, x: Tensor) -> Tensor:
        return x.clone()

    def device_memory(self) -> DeviceMemory:
        memory = super().device_memory()
        return replace(memory, overhead_bytes=memory.overhead_bytes + REPLAY_BYTES)

    @contextmanager
    def work(self) -> Iterator[None]:
        """As for any device; kernels are launched on the current one."""
        with torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext(), super().work():
            yield
