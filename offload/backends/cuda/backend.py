"""The cuda backend: Triton kernels for what takes time, the eager backend's operations for the rest.

The kernels know nothing of CUDA but its name: with TRITON_INTERPRET=1 they run on tensors of the CPU.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor

from ...planning.memory import TEMPORARIES
from ...transformer.config import Routing
from ..eager.attention import DeviceCache, DeviceLatentCache
from ..eager.backend import EagerBackend
from ..eager.rows import DeviceRows
from . import norms, router
from .attention import SCRATCH, attention
from .blocks import FORMATS
from .products import TritonProducts


class CudaBackend(EagerBackend):
    formats = FORMATS

    def __init__(self, name: str, device: torch.device, check: bool):
        super().__init__(name, device, check, SCRATCH // TEMPORARIES)  # what the plan reserves for a step
        self._products = TritonProducts()

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

    @contextmanager
    def work(self) -> Iterator[None]:
        """As for any device; kernels are launched on the current one."""
        with torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext(), super().work():
            yield
