"""The trunk: token rows in, the normed state that feeds the head (and the MTP block) out."""

from collections.abc import Sequence as Many
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..backends.ledger import LOGITS, ROUTING
from ..backends.protocol import Array, Cache, LatentCache
from ..cuts import Cut, take_all
from .layers import Layers
from .rows import Rows
from .weights import ModelWeights


@dataclass(frozen=True)
class Verified:
    """What a pass through the trunk says about its T rows."""

    hidden_TD: Array  # behind the output norm, of the rows that went through all layers
    expert_ids: list[np.ndarray]  # int32 (T, K), one for each MoE layer: fewer rows behind a cut
    rows: list[Rows]  # of each layer's attention
    tapped: dict[int, Array]  # states (T, D) behind the layers that were asked for


@dataclass(frozen=True)
class Trunk:
    """All layers but the MTP block, with their cache."""

    layers: Layers
    weights: ModelWeights
    cache: Cache | LatentCache

    def forward(self, rows: Rows, cut: Cut = take_all, taps: Many[int] = ()) -> Verified:
        """Runs the rows and stores their keys and values.

        Args:
            cut: called in each layer with experts on the host, as soon as it has routed: says which rows go on. What
                dropped rows left in the cache lies at positions that no other row sees, and the next row there
                overwrites it.
            taps: layers behind which the rows' states are wanted.

        Raises:
            ContextFull: a position lies outside the cache.
        """
        passed = self.run(self.layers.backend.rows(rows), cut, taps)
        return Verified(passed.hidden_TD, self._on_host(passed.expert_ids), passed.rows, passed.tapped)

    def run(self, placed: Any, cut: Cut = take_all, taps: Many[int] = ()) -> Verified:
        """The same for rows on the device, without reading anything back: `expert_ids` stay where they were chosen."""
        backend, kept = self.layers.backend, None
        x_TD = backend.embed(self.weights.embedding, placed.token_ids)
        passed = Verified(x_TD, [], [], {})

        def remembered(expert_ids_TK: np.ndarray) -> list[slice] | None:
            nonlocal kept
            kept = cut(expert_ids_TK)
            return kept

        for layer, block in enumerate(self.weights.blocks):
            passed.rows.append(placed.host)
            x_TD, used = self.layers.block(block, x_TD, self.cache, layer, placed, remembered)
            if used is not None:
                passed.expert_ids.append(used)
            if kept is not None:
                for tapped, states_TD in passed.tapped.items():
                    passed.tapped[tapped] = backend.join_rows([states_TD[part] for part in kept])
                placed, kept = backend.rows(placed.host.take(kept)), None
            if layer in taps:
                passed.tapped[layer] = x_TD
        return replace(passed, hidden_TD=backend.rms_norm(x_TD, self.weights.output_norm, self.layers.config.norm_eps))

    def _on_host(self, expert_ids: list[Array]) -> list[np.ndarray]:
        """The experts of every layer; those that were chosen on the device are read back together."""
        backend = self.layers.backend
        there = [used for used in expert_ids if not isinstance(used, np.ndarray)]
        back: list[np.ndarray] = []
        if there:
            ends = np.cumsum([len(used) for used in there])
            back = np.split(backend.to_host(ROUTING, backend.join_rows(there)), ends[:-1])
        return [used if isinstance(used, np.ndarray) else back.pop(0) for used in expert_ids]

    def scores(self, hidden_TD: Array) -> Array:
        """Scores of the next token, float32 (T, V)."""
        return self.layers.backend.linear(hidden_TD, self.weights.head)

    def logits(self, hidden_TD: Array) -> np.ndarray:
        """The same on the host."""
        return self.layers.backend.to_host(LOGITS, self.scores(hidden_TD))
