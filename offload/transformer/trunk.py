"""The trunk: token rows in, the normed state that feeds the head (and the MTP block) out."""

from collections.abc import Sequence as Many
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np

from experts import ExpertLayer

from ..cuts import Cut, take_all
from ..ledger import LOGITS, ROUTING
from .backend import Array, Cache, LatentCache
from .layers import Layers
from .rows import Rows, check_room
from .weights import FfnWeights, ModelWeights, MoeWeights


@dataclass(frozen=True)
class Verified:
    """What a pass through the trunk says about its T rows."""

    hidden_TD: Array  # behind the output norm, of the rows that went through all layers
    expert_ids: list[np.ndarray]  # int32 (T, K), one for each MoE layer: fewer rows behind a cut, or in the last layer
    rows: list[Rows]  # of each layer's attention
    tapped: dict[int, Array]  # states (T, D) behind the layers that were asked for


@dataclass(frozen=True)
class Piece:
    """Layers that run without the host in between."""

    layers: range
    hands_over: bool  # the last one has its experts on the host

    def tapped(self, taps: Many[int]) -> list[int]:
        """Of these layers those whose states become known in this piece."""
        known = range(self.layers.start - 1, self.layers.stop - self.hands_over)
        return [layer for layer in known if layer in taps]


@dataclass(frozen=True)
class Trunk:
    """All layers but the MTP block, with their cache."""

    layers: Layers
    weights: ModelWeights
    cache: Cache | LatentCache

    def forward(
        self, rows: Rows, cut: Cut = take_all, taps: Many[int] = (), wanted: list[slice] | None = None
    ) -> Verified:
        """Runs the rows and stores their keys and values.

        Args:
            cut: called in each layer with experts on the host, as soon as it has routed: says which rows go on. What
                dropped rows left in the cache lies at positions that no other row sees, and the next row there
                overwrites it.
            taps: layers behind which the rows' states are wanted.
            wanted: the rows whose states are asked for, where nothing is cut; None: all. Of the others the last layer
                has to store keys and values only.

        Raises:
            ContextFull: a position lies outside the cache.
        """
        passed = self.run(self.layers.backend.rows(rows), cut, taps, wanted)
        return Verified(passed.hidden_TD, self._on_host(passed.expert_ids), passed.rows, passed.tapped)

    def run(
        self, placed: Any, cut: Cut = take_all, taps: Many[int] = (), wanted: list[slice] | None = None
    ) -> Verified:
        """The same for rows on the device, without reading anything back: `expert_ids` stay where they were chosen."""
        check_room(placed.host, self.cache.num_positions)
        run = self._run_layers if self.layers.backend.reads_back_freely else self._run_pieces
        x_TD, passed = run(placed, cut, tuple(taps), wanted)
        hidden_TD = self.layers.backend.rms_norm(x_TD, self.weights.output_norm, self.layers.config.norm_eps)
        return replace(passed, hidden_TD=hidden_TD)

    def _run_layers(self, rows: Rows, cut: Cut, taps: Many[int], wanted: list[slice] | None) -> tuple[Array, Verified]:
        """One layer after the other, where nothing crosses."""
        kept = None
        x_TD = self.layers.backend.embed(self.weights.embedding, rows.token_ids)
        passed = Verified(x_TD, [], [], {})

        def remembered(expert_ids_TK: np.ndarray) -> list[slice] | None:
            nonlocal kept
            kept = cut(expert_ids_TK)
            return kept

        for layer, block in enumerate(self.weights.blocks):
            if wanted is not None and layer == len(self.weights.blocks) - 1:
                x_TD, used = self.layers.block_of_some(block, x_TD, self.cache, layer, rows, wanted)
                rows = rows.take(wanted)
            else:
                x_TD, used = self.layers.block(block, x_TD, self.cache, layer, rows, remembered)
            passed.rows.append(rows)
            if used is not None:
                passed.expert_ids.append(used)
            if kept is not None:
                self._keep(passed, kept)
                rows, kept = rows.take(kept), None
            if layer in taps:
                passed.tapped[layer] = x_TD
        return x_TD, passed

    def _run_pieces(self, placed: Any, cut: Cut, taps: Many[int], wanted: list[slice] | None) -> tuple[Array, Verified]:
        """What the device does between two hand-offs to the host may be replayed; the host's part never is."""
        backend, passed = self.layers.backend, Verified(None, [], [], {})
        x_TD = shared_TD = sums = None
        for piece in self.pieces:
            name, work = ("layers", id(self), piece, taps), partial(self._run_piece, piece, taps)
            x_TD, normed_TD, sent, expert_ids, *tapped = backend.replay(name, work, placed, x_TD, shared_TD, sums)
            passed.rows.extend([placed.host] * len(piece.layers))
            passed.expert_ids.extend(() if expert_ids is None else backend.lasting(expert_ids))
            passed.tapped.update(zip(piece.tapped(taps), map(backend.lasting, tapped), strict=True))
            if not piece.hands_over:
                continue
            layer = piece.layers[-1]
            weights = self.weights.blocks[layer].ffn
            assert isinstance(weights, MoeWeights)
            shared = partial(self._shared, layer, placed, normed_TD)
            shared_TD, sums, routed = self.layers.wait(weights, sent, shared, cut)
            passed.expert_ids.append(routed.expert_ids_TK)
            if (kept := routed.kept) is not None:
                x_TD, shared_TD = self.layers.kept(x_TD, kept), self.layers.kept(shared_TD, kept)
                self._keep(passed, kept)
                placed = backend.rows(placed.host.take(kept))
        return self.layers.kept(x_TD, wanted), passed

    def _keep(self, passed: Verified, kept: list[slice]) -> None:
        """Drops the states of rows that do not go on."""
        for layer, states_TD in passed.tapped.items():
            passed.tapped[layer] = self.layers.kept(states_TD, kept)

    @cached_property
    def pieces(self) -> list[Piece]:
        """All layers; the last piece hands nothing over, and may have none."""
        pieces, first = [], 0
        for layer, block in enumerate(self.weights.blocks):
            if isinstance(block.ffn, MoeWeights) and isinstance(block.ffn.experts, ExpertLayer):
                pieces.append(Piece(range(first, layer + 1), True))
                first = layer + 1
        return [*pieces, Piece(range(first, len(self.weights.blocks)), False)]

    def _run_piece(
        self, piece: Piece, taps: Many[int], rows: Any, x_TD: Array, shared_TD: Array, sums: Any
    ) -> tuple[Any, ...]:
        """A piece, from what the one before it left.

        Returns:
            The residual stream, what is sent to the host and the same here, experts (layers, T, K), states behind taps.
        """
        layers, first = self.layers, piece.layers.start
        tapped, used, normed_TD, sent = [], [], None, None
        if first == 0:
            x_TD = layers.backend.embed(self.weights.embedding, rows.token_ids)
        else:
            x_TD = layers.receive(x_TD, shared_TD, sums)
            if first - 1 in taps:
                tapped.append(x_TD)
        for layer in piece.layers:
            block = self.weights.blocks[layer]
            if piece.hands_over and layer == piece.layers[-1]:
                x_TD, normed_TD, sent = layers.send(block, x_TD, self.cache, layer, rows)
                break
            x_TD, expert_ids_TK = layers.block(block, x_TD, self.cache, layer, rows)
            used += [] if expert_ids_TK is None else [expert_ids_TK]
            if layer in taps:
                tapped.append(x_TD)
        joined = layers.backend.join_rows(used).reshape(len(used), len(rows), -1) if used else None
        return x_TD, normed_TD, sent, joined, *tapped

    def _shared(self, layer: int, rows: Any, normed_TD: Array, weights: FfnWeights) -> Array:
        """The shared experts of a layer whose others are at work on the host."""

        def work(rows: Any, normed_TD: Array) -> tuple[Array]:
            return (self.layers.feed_forward(weights, normed_TD),)

        return self.layers.backend.replay(("shared experts", id(self), layer), work, rows, normed_TD)[0]

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
