"""Bytes that a step has to read: the one account that statistics, plans and policies share."""

import math
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from itertools import groupby
from typing import Any

from experts import ExpertLayer, Matrix, MatrixStack
from scheduler import distinct_experts

from .transformer.backend import Array, Cache, LatentCache
from .transformer.rows import Rows
from .transformer.weights import BlockWeights, DeviceExperts, DeviceMatrix, MoeWeights


def weight_bytes(weights: Any) -> int:
    """Bytes of all matrices in a record or tuple of records, the routed experts excepted (they are read by choice).

    Norms and biases are left out: less than a thousandth.
    """
    if isinstance(weights, Matrix | MatrixStack | DeviceMatrix):
        return int(weights.data.nbytes)
    if isinstance(weights, ExpertLayer | DeviceExperts):
        return 0
    if isinstance(weights, tuple):
        return sum(weight_bytes(part) for part in weights)
    if is_dataclass(weights):
        return sum(weight_bytes(getattr(weights, field.name)) for field in fields(weights))
    return 0


class RoutedBytes:
    """Bytes of the experts that a step's rows chose, each counted once a layer; on an accelerator once a row."""

    def __init__(self, blocks: Sequence[BlockWeights]):
        """
        Args:
            blocks: those without experts are left out.
        """
        layers = [block.ffn.experts for block in blocks if isinstance(block.ffn, MoeWeights)]
        self._layers = [(layer.expert_bytes, isinstance(layer, DeviceExperts)) for layer in layers]

    def __call__(self, expert_ids: Sequence[Array]) -> int:
        """
        Args:
            expert_ids: int32 (T, K) of each block with experts.
        """
        total = 0
        for (expert_bytes, by_row), ids in zip(self._layers, expert_ids, strict=True):
            total += expert_bytes * (math.prod(ids.shape) if by_row else distinct_experts(ids))
        return total


def kv_bytes_by_layer(cache: Cache | LatentCache, rows_by_layer: Sequence[Rows]) -> int:
    """Bytes of keys and values that the rows of each layer see, where a cut may have dropped some on the way."""
    if rows_by_layer[0] is rows_by_layer[-1]:  # no cut
        return kv_bytes(cache, rows_by_layer[0])
    total = 0
    for _, layers in groupby(rows_by_layer, key=id):
        same = list(layers)
        total += kv_bytes(cache, same[0]) * len(same) // len(rows_by_layer)
    return total


def kv_bytes(cache: Cache | LatentCache, rows: Rows) -> int:
    """Bytes of keys and values that the rows see: those of a slot once, up to its furthest row."""
    seen: dict[int, int] = {}
    for slot, position in zip(rows.slots.tolist(), rows.positions.tolist(), strict=True):
        seen[slot] = max(seen.get(slot, 0), position + 1)
    return sum(seen.values()) * cache.bytes_per_token
