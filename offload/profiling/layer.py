"""What a decoder layer takes on the processor beside reading its weights: its calls, and attention's arithmetic.

Weights push everything else out of the caches, so calls find their own code and data in memory again. Here other
memory is read in their stead.

Shapes: D hidden, F FFN, E experts, H query heads, G key-value heads, C head size, S cached positions.
"""

import statistics
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np

from experts import FORMATS, Matrix
from experts.attention import attention

from ..backends.cpu import CpuBackend, RoutedOnCpu
from ..planning.shapes import published
from ..transformer.config import config_of
from ..transformer.kv_cache import KvCache
from ..transformer.layers import Layers
from ..transformer.rotary import rotary_table
from ..transformer.rows import Rows
from ..transformer.weights import AttentionWeights, BlockWeights, FfnWeights, MoeWeights
from .caches import last_level_cache_bytes
from .probe import Probe
from .random_layer import random_layer, random_matrix
from .samples import in_turn

HIDDEN, FFN, EXPERTS, HEADS, KV_HEADS = 256, 256, 16, 2, 2  # so little that calls are what takes the time
LEAST_ROUNDS = 3
LEAST_PROBE, MOST_PROBE = 64 << 20, 256 << 20  # bytes
GLM_HEADS, GLM_KV_HEADS, HEAD_SIZE = 96, 8, 128
POSITIONS = 4096  # enough for every thread


class StreamingCpu(CpuBackend):
    """Reads memory through the caches before each product, as its weights would have been."""

    def __init__(self, probe: Probe) -> None:
        super().__init__()
        self._probe = probe
        self.streamed_s = 0.0

    def linear(self, *arguments: Any) -> np.ndarray:
        self._stream()
        return super().linear(*arguments)

    def swiglu(self, *arguments: Any) -> np.ndarray:
        self._stream()
        return super().swiglu(*arguments)

    def start_experts(self, *arguments: Any) -> RoutedOnCpu:
        self._stream()
        return super().start_experts(*arguments)

    def _stream(self) -> None:
        started = perf_counter()
        self._probe.read()
        self.streamed_s += perf_counter() - started


class SmallLayer:
    """A layer of GLM-4.7's structure, with one row."""

    def __init__(self, name: str) -> None:
        config = config_of(published("glm-4.7", "q8_0"))
        self._backend = StreamingCpu(Probe(min(max(2 * last_level_cache_bytes(), LEAST_PROBE), MOST_PROBE)))
        table = rotary_table(2, config.rotated_size, config.rope_base, None, 1.0)
        cache = KvCache(1, 1, KV_HEADS, 2, config.head_size, "f16")
        x_TD = np.ones((1, HIDDEN), np.float32)
        layers = Layers(config, self._backend, table)
        block = partial(layers.block, _weights(name, config.head_size), x_TD, cache, 0)
        self._block = partial(block, Rows.consecutive(0, 0, [0]))

    def seconds(self) -> float:
        """Of one run, without what stands for its weights."""
        self._backend.streamed_s = 0.0
        started = perf_counter()
        self._block()
        return perf_counter() - started - self._backend.streamed_s


def layer_s(name: str, budget_s: float) -> float:
    """Seconds of a layer whose weights, of this format, are hardly any."""
    layer, seconds, begun = SmallLayer(name), list[float](), perf_counter()
    while len(seconds) <= LEAST_ROUNDS or perf_counter() - begun < budget_s:
        seconds.append(layer.seconds())
    return statistics.median(seconds[1:])


def attention_flops(budget_s: float) -> float:
    """Operations a second of one row's attention over keys and values in f16, with GLM's heads."""
    cache = KvCache(1, 1, GLM_KV_HEADS, POSITIONS, HEAD_SIZE, "f16")
    q_THC = np.ones((1, GLM_HEADS, HEAD_SIZE), np.float32)
    slot, last = np.zeros(1, np.int64), np.full(1, POSITIONS - 1)
    sample = in_turn({0: partial(attention, q_THC, cache.layers[0], slot, last)}, budget_s)[0]
    return sample.rate(4 * GLM_HEADS * HEAD_SIZE * POSITIONS)


def _weights(name: str, C: int) -> BlockWeights:
    fmt = FORMATS[name]
    matrix = partial(random_matrix, fmt)

    def ones(size: int) -> np.ndarray:
        return np.ones(size, np.float32)

    q, kv, router_ED = HEADS * C, KV_HEADS * C, np.eye(EXPERTS, HIDDEN, dtype=np.float32)
    attention_weights = AttentionWeights(
        norm=ones(HIDDEN),
        q=matrix(q, HIDDEN),
        k=matrix(kv, HIDDEN),
        v=matrix(kv, HIDDEN),
        output=matrix(HIDDEN, q),
        q_bias=ones(q),
        k_bias=ones(kv),
        v_bias=ones(kv),
        q_norm=ones(C),
        k_norm=ones(C),
    )
    shared = FfnWeights(matrix(FFN, HIDDEN), matrix(FFN, HIDDEN), matrix(HIDDEN, FFN))
    router = Matrix.from_bytes(FORMATS["F32"], EXPERTS, HIDDEN, router_ED.view(np.uint8).reshape(-1))
    routed = random_layer(fmt, EXPERTS, HIDDEN, FFN)
    return BlockWeights(attention_weights, ones(HIDDEN), MoeWeights(router, ones(EXPERTS), routed, shared))
