"""The trunk: token rows in, the normed state that feeds the head (and the MTP block) out."""

from dataclasses import dataclass

import numpy as np

from .backend import Array, Cache
from .layers import Layers
from .ledger import LOGITS, ROUTING
from .rows import Rows
from .weights import ModelWeights


@dataclass(frozen=True)
class Verified:
    """What a pass through the trunk says about its T rows."""

    hidden_TD: Array  # behind the output norm
    expert_ids: list[np.ndarray]  # int32 (T, K), one for each MoE layer


@dataclass(frozen=True)
class Trunk:
    """All layers but the MTP block, with their cache."""

    layers: Layers
    weights: ModelWeights
    cache: Cache

    def forward(self, rows: Rows) -> Verified:
        """Runs the rows and stores their keys and values.

        Raises:
            ContextFull: a position lies outside the cache.
        """
        backend = self.layers.backend
        placed = backend.rows(rows)
        x_TD = backend.embed(self.weights.embedding, placed.token_ids)
        expert_ids = []
        for layer, block in enumerate(self.weights.blocks):
            x_TD, used = self.layers.block(block, x_TD, self.cache, layer, placed)
            if used is not None:
                expert_ids.append(used)
        hidden_TD = backend.rms_norm(x_TD, self.weights.output_norm, self.layers.config.norm_eps)
        on_host = [used if isinstance(used, np.ndarray) else backend.to_host(ROUTING, used) for used in expert_ids]
        return Verified(hidden_TD, on_host)

    def logits(self, hidden_TD: Array) -> np.ndarray:
        """Scores of the next token, float32 (T, V), on the host."""
        backend = self.layers.backend
        return backend.to_host(LOGITS, backend.linear(hidden_TD, self.weights.head))
