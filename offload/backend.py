"""What a device must be able to do: the one interface between the model and its arithmetic.

Arrays and weights are the backend's own kind (numpy for the CPU); the model only passes them on, indexes rows and adds.
Every operation is row-invariant: a row's result never depends, to the bit, on the other rows of the call.

Shapes: T rows, D hidden, H query heads, G key-value heads, C head size, E experts, K experts per row, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from experts import Matrix

from .kv_cache import KvCache
from .rows import Rows

Array = Any
Weight = Any


class Backend(Protocol):
    """Operations of a device. Inputs and outputs are float32 unless said otherwise."""

    name: str

    def upload(self, matrix: Matrix) -> Weight:
        """Takes an encoded matrix to the device; it stays encoded."""
        ...

    def upload_vector(self, values: np.ndarray) -> Array:
        """Takes float32 values (norms, biases, tables) to the device."""
        ...

    def embed(self, table: Weight, token_ids_T: np.ndarray) -> Array:
        """Rows of the embedding table (T, D)."""
        ...

    def rms_norm(self, x_TD: Array, weight_D: Array, eps: float) -> Array: ...

    def linear(self, x: Array, weight: Weight, bias: Array | None = None) -> Array: ...

    def swiglu(self, x_TD: Array, gate: Weight, up: Weight, down: Weight) -> Array:
        """down(silu(gate x) * up x)."""
        ...

    def head_norm_rope(self, x_THC: Array, rows: Rows, table: Array, norm_C: Array | None, eps: float) -> None:
        """Norms and rotates each head, in place."""
        ...

    def attention(self, q_THC: Array, cache: KvCache, layer: int, rows: Rows) -> Array:
        """What each row reads from its slot of the cache (T, H, C)."""
        ...

    def route(
        self, logits_TE: Array, bias_E: Array, num_used: int, normalize: bool, scale: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Expert ids int32 (T, K) and weights float32 (T, K), on the host, where the experts are."""
        ...

    def join_features(self, left: Array, right: Array) -> Array:
        """(T, A) and (T, B) -> (T, A + B)."""
        ...

    def join_rows(self, parts: Sequence[Array]) -> Array:
        """(T1, D), (T2, D), ... -> (T1 + T2 + ..., D)."""
        ...

    def to_host(self, x: Array) -> np.ndarray: ...
