"""The CPU backend: numpy arrays and the numba kernels of `experts`."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

import experts
from experts.attention import attention
from experts.attention.latent import latent_attention
from experts.rowwise.norms import rms_norm
from experts.rowwise.rope import head_norm_rope
from experts.rowwise.router import route

from ..cuts import Cut, take_all, taken
from ..ledger import Ledger
from ..sampling import DraftStart
from ..sampling.drafts import HostDraftSampler
from ..transformer.backend import Name, Work
from ..transformer.config import SOFTMAX, Routing
from ..transformer.kv_cache import KvCache, LatentCache
from ..transformer.rows import Rows


@dataclass
class RoutedOnCpu:
    """Nothing runs beside them: the other layers want the same cores."""

    x_TD: np.ndarray
    expert_ids_TK: np.ndarray
    weights_TK: np.ndarray
    layer: experts.ExpertLayer
    kept: list[slice] | None = None

    def wait(self, cut: Cut = take_all) -> np.ndarray:
        kept = self.kept = cut(self.expert_ids_TK)
        if kept is not None:
            self.x_TD, self.weights_TK = taken(self.x_TD, kept), taken(self.weights_TK, kept)
            self.expert_ids_TK = taken(self.expert_ids_TK, kept)
        return experts.moe_ffn(self.x_TD, self.expert_ids_TK, self.weights_TK, self.layer)


class CpuBackend:
    """Weights stay where the file is mapped; nothing is copied."""

    name = "cpu"
    reads_back_freely = True
    emulated_s = 0.0

    def __init__(self) -> None:
        self.ledger = Ledger()  # nothing ever crosses here

    def upload(self, name: str, matrix: experts.Matrix) -> experts.Matrix:
        return matrix

    def upload_heads(self, name: str, stack: experts.MatrixStack) -> experts.MatrixStack:
        return stack

    def upload_experts(
        self, name: str, gate: experts.Stack, up: experts.Stack, down: experts.Stack
    ) -> experts.ExpertLayer:
        return experts.ExpertLayer(gate, up, down)

    def upload_vector(self, name: str, values: np.ndarray) -> np.ndarray:
        return values

    def new_cache(self, name: str, shape_LNGSC: tuple[int, ...], kind: str) -> KvCache:
        num_layers, num_slots, num_kv_heads, num_positions, head_size = shape_LNGSC
        return KvCache(num_layers, num_slots, num_kv_heads, num_positions, head_size, kind)

    def new_latent_cache(self, name: str, shape_LNSC: tuple[int, ...], kind: str) -> LatentCache:
        num_layers, num_slots, num_positions, row_size = shape_LNSC
        return LatentCache(num_layers, num_slots, num_positions, row_size, kind)

    def rows(self, rows: Rows) -> Rows:
        return rows

    def embed(self, table: experts.Matrix, token_ids_T: np.ndarray) -> np.ndarray:
        return experts.gather_rows(table, token_ids_T)

    def rms_norm(self, x_TD: np.ndarray, weight_D: np.ndarray, eps: float) -> np.ndarray:
        return rms_norm(x_TD, weight_D, eps)

    def linear(self, x: np.ndarray, weight: experts.Matrix, bias: np.ndarray | None = None) -> np.ndarray:
        return experts.linear(x, weight, bias)

    def linear_heads(self, x_THC: np.ndarray, weight: experts.MatrixStack) -> np.ndarray:
        return experts.linear_heads(x_THC, weight)

    def swiglu(self, x_TD: np.ndarray, gate: experts.Matrix, up: experts.Matrix, down: experts.Matrix) -> np.ndarray:
        return experts.swiglu_ffn(x_TD, gate, up, down)

    def head_norm_rope(
        self, x_THC: np.ndarray, rows: Rows, table: np.ndarray, norm_C: np.ndarray | None, eps: float
    ) -> np.ndarray:
        head_norm_rope(x_THC, rows.positions, table, norm_C, eps)
        return x_THC

    def attention(self, q_THC: np.ndarray, cache: KvCache, layer: int, rows: Rows) -> np.ndarray:
        return attention(q_THC, cache.layers[layer], rows.slots, rows.positions)

    def latent_attention(self, q_THC: np.ndarray, cache: LatentCache, layer: int, rows: Rows) -> np.ndarray:
        return latent_attention(q_THC, cache.layers[layer], rows.slots, rows.positions)

    def route(self, logits_TE: np.ndarray, bias_E: np.ndarray, routing: Routing) -> tuple[np.ndarray, np.ndarray]:
        softmax, groups = routing.gating == SOFTMAX, (routing.num_groups, routing.num_used_groups)
        return route(logits_TE, bias_E, routing.num_used, routing.normalizes, routing.scale, softmax, groups)

    def mixture(
        self, x_TD: np.ndarray, expert_ids_TK: np.ndarray, weights_TK: np.ndarray, layer: experts.ExpertLayer
    ) -> np.ndarray:
        return experts.moe_ffn(x_TD, expert_ids_TK, weights_TK, layer)

    def send(
        self, x_TD: np.ndarray, expert_ids_TK: np.ndarray, weights_TK: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return x_TD, expert_ids_TK, weights_TK

    def start_experts(self, sent: tuple[np.ndarray, np.ndarray, np.ndarray], layer: experts.ExpertLayer) -> RoutedOnCpu:
        return RoutedOnCpu(*sent, layer)

    def receive(self, sums: np.ndarray) -> np.ndarray:
        return sums

    def replay(self, name: Name, work: Work, rows: Rows, *values: Any) -> tuple[Any, ...]:
        return work(rows, *values)

    def lasting(self, x: np.ndarray) -> np.ndarray:
        return x

    def join_features(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return np.concatenate([left, right], axis=1)

    def join_rows(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate(parts)

    def draft_sampler(self, starts: Sequence[DraftStart]) -> HostDraftSampler:
        return HostDraftSampler(starts)

    def to_host(self, role: str, x: np.ndarray) -> np.ndarray:
        return x

    def device_memory(self) -> None:
        return None

    def notes(self) -> list[str]:
        return []

    def work(self) -> AbstractContextManager[None]:
        return nullcontext()
