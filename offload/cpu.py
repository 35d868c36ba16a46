"""The CPU backend: numpy arrays and the numba kernels of `experts`."""

from collections.abc import Sequence

import numpy as np

import experts
from experts.attention import attention
from experts.norms import rms_norm
from experts.rope import head_norm_rope
from experts.router import route

from .kv_cache import KvCache
from .rows import Rows


class CpuBackend:
    """Weights stay where the file is mapped; nothing is copied."""

    name = "cpu"

    def upload(self, matrix: experts.Matrix) -> experts.Matrix:
        return matrix

    def upload_vector(self, values: np.ndarray) -> np.ndarray:
        return values

    def embed(self, table: experts.Matrix, token_ids_T: np.ndarray) -> np.ndarray:
        return experts.gather_rows(table, token_ids_T)

    def rms_norm(self, x_TD: np.ndarray, weight_D: np.ndarray, eps: float) -> np.ndarray:
        return rms_norm(x_TD, weight_D, eps)

    def linear(self, x: np.ndarray, weight: experts.Matrix, bias: np.ndarray | None = None) -> np.ndarray:
        return experts.linear(x, weight, bias)

    def swiglu(self, x_TD: np.ndarray, gate: experts.Matrix, up: experts.Matrix, down: experts.Matrix) -> np.ndarray:
        return experts.swiglu_ffn(x_TD, gate, up, down)

    def head_norm_rope(
        self, x_THC: np.ndarray, rows: Rows, table: np.ndarray, norm_C: np.ndarray | None, eps: float
    ) -> None:
        head_norm_rope(x_THC, rows.positions, table, norm_C, eps)

    def attention(self, q_THC: np.ndarray, cache: KvCache, layer: int, rows: Rows) -> np.ndarray:
        return attention(q_THC, cache.layers[layer], rows.slots, rows.positions)

    def route(
        self, logits_TE: np.ndarray, bias_E: np.ndarray, num_used: int, normalize: bool, scale: float
    ) -> tuple[np.ndarray, np.ndarray]:
        return route(logits_TE, bias_E, num_used, normalize, scale)

    def join_features(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return np.concatenate([left, right], axis=1)

    def join_rows(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate(parts)

    def to_host(self, x: np.ndarray) -> np.ndarray:
        return x
