"""What a decoder layer takes on the processor beside reading its weights: its calls, and attention's arithmetic.

Shapes: D hidden, F FFN, E experts, H query heads, G key-value heads, C head size, S cached positions.
"""

from functools import partial

import numpy as np

from experts import FORMATS, Matrix
from experts.attention import attention

from ..backends.cpu import CpuBackend
from ..planning.shapes import published
from ..transformer.config import config_of
from ..transformer.kv_cache import KvCache
from ..transformer.layers import Layers
from ..transformer.rotary import rotary_table
from ..transformer.rows import Rows
from ..transformer.weights import AttentionWeights, BlockWeights, FfnWeights, MoeWeights
from .random_layer import random_layer, random_matrix
from .samples import in_turn

HIDDEN, FFN, EXPERTS, HEADS, KV_HEADS = 256, 256, 16, 2, 2  # so little that calls are what takes the time
LAYERS = 20  # in a row, as a step has them
GLM_HEADS, GLM_KV_HEADS, HEAD_SIZE = 96, 8, 128
POSITIONS = 4096  # enough for every thread


class SmallLayer:
    """A layer of GLM-4.7's structure, with one row."""

    def __init__(self, name: str) -> None:
        config = config_of(published("glm-4.7", "q8_0"))
        backend, rotated = CpuBackend(), config.rotated_size
        table = rotary_table(2, rotated, config.rope_base, None, 1.0)
        cache = KvCache(1, 1, KV_HEADS, 2, config.head_size, "f16")
        x_TD = np.ones((1, HIDDEN), np.float32)
        block = partial(Layers(config, backend, table).block, _weights(name, config.head_size), x_TD, cache, 0)
        self._block = partial(block, Rows.consecutive(0, 0, [0]))

    def run(self) -> None:
        for _ in range(LAYERS):
            self._block()


def layer_s(name: str, budget_s: float) -> float:
    """Seconds of a layer whose weights, of this format, are hardly any."""
    return in_turn({0: SmallLayer(name).run}, budget_s)[0].median / LAYERS


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
