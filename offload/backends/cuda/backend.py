"""The cuda backend: Triton kernels for what takes time, the eager backend's operations for the rest.

The kernels know nothing of CUDA but its name: with TRITON_INTERPRET=1 they run on tensors of the CPU.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor

import experts

from ...planning.memory import TEMPORARIES
from ...transformer.config import Routing
from ...transformer.weights import DeviceExperts, DeviceMatrix
from ..eager.attention import DeviceCache, DeviceLatentCache
from ..eager.backend import EagerBackend, RoutedOnDevice
from ..eager.rows import DeviceRows
from ..protocol import Routed
from . import norms, router
from .attention import SCRATCH, attention
from .blocks import FORMATS
from .products import TritonProducts


class CudaBackend(EagerBackend):
    formats = FORMATS

    def __init__(self, name: str, device: torch.device, check: bool):
        super().__init__(name, device, check, SCRATCH // TEMPORARIES)  # what the plan reserves for a step
        self._kernels = TritonProducts()

    def embed(self, table: DeviceMatrix, token_ids_T: Tensor) -> Tensor:
        return self._kernels.embed(table, token_ids_T)

    def rms_norm(self, x_TD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
        return norms.rms_norm(x_TD, weight_D, eps)

    def linear(self, x: Tensor, weight: DeviceMatrix, bias: Tensor | None = None) -> Tensor:
        return self._kernels.linear(x, weight, bias)

    def linear_heads(self, x_THC: Tensor, weight: DeviceMatrix) -> Tensor:
        return self._kernels.linear_heads(x_THC, weight)

    def swiglu(self, x_TD: Tensor, gate: DeviceMatrix, up: DeviceMatrix, down: DeviceMatrix) -> Tensor:
        return self._kernels.swiglu(x_TD, gate, up, down)

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

    def start_experts(
        self, x_TD: Tensor, expert_ids_TK: Tensor, weights_TK: Tensor, layer: experts.ExpertLayer | DeviceExperts
    ) -> Routed:
        if isinstance(layer, DeviceExperts):
            return RoutedOnDevice(expert_ids_TK, self._kernels.experts(x_TD, expert_ids_TK, weights_TK, layer))
        return super().start_experts(x_TD, expert_ids_TK, weights_TK, layer)

    @contextmanager
    def work(self) -> Iterator[None]:
        """As for any device; kernels are launched on the current one."""
        with torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext(), super().work():
            yield
