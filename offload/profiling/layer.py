"""What a step takes on the processor beside reading weights: a layer's calls, what is around the layers, attention.

Weights push everything else out of the caches, so calls find their own code and data in memory again. Here other
memory is read in their stead.

Shapes: T rows, D hidden, F FFN, E experts, H query heads, G key-value heads, C head size, S positions, V vocabulary.
"""

import statistics
from dataclasses import dataclass, field, replace
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np

from experts import FORMATS, ExpertLayer, Matrix, moe_ffn
from experts.attention import attention
from scheduler import AutoPolicy, Device, PerRequest, Weights, step_cost

from ..backends.cpu import CpuBackend
from ..backends.cpu_layers import CpuLayers
from ..drafting import NoDrafter
from ..engine import Engine
from ..planning.shapes import VOCAB_SIZE, published
from ..sampling import Sampler, SamplingParams
from ..sequence import OFF, Sequence
from ..transformer.config import config_of
from ..transformer.kv_cache import KvCache
from ..transformer.rotary import rotary_table
from ..transformer.trunk import Trunk
from ..transformer.weights import AttentionWeights, BlockWeights, FfnWeights, ModelWeights, MoeWeights
from .caches import last_level_cache_bytes
from .probe import Probe
from .random_layer import random_layer, random_matrix
from .samples import in_turn

HIDDEN, FFN, EXPERTS, HEADS, KV_HEADS = 256, 256, 16, 2, 2  # so little that calls are what takes the time
LEAST_ROUNDS = 9
LEAST_PROBE, MOST_PROBE = 64 << 20, 256 << 20  # bytes
CONTEXT = 256  # positions, after which the text begins anew
GLM_HEADS, GLM_KV_HEADS, HEAD_SIZE = 96, 8, 128
POSITIONS = 4096  # enough for every thread


@dataclass(frozen=True)
class OneLayer(Trunk):
    """A trunk whose scores are as many as GLM's vocabulary has tokens, though its head makes fewer."""

    logits_TV: np.ndarray

    def logits(self, hidden_TD: Any) -> np.ndarray:
        assert isinstance(self.layers, ColdLayers)
        self.layers.stream()
        super().logits(hidden_TD)
        return self.logits_TV


@dataclass(frozen=True)
class ColdLayers(CpuLayers):
    """Reads memory through the caches before each call, as the weights would have been; notes the rest's seconds."""

    probe: Probe = field(kw_only=True)
    seconds: list[float] = field(default_factory=list)
    apart_s: list[float] = field(default_factory=list)  # what reading took

    def block(self, *arguments: Any) -> Any:
        started, before = perf_counter(), sum(self.apart_s)
        result = super().block(*arguments)
        self.seconds.append(perf_counter() - started - (sum(self.apart_s) - before))
        return result

    def attend(self, *arguments: Any) -> None:
        self.stream()
        super().attend(*arguments)

    def feed(self, *arguments: Any) -> np.ndarray:
        self.stream()
        return super().feed(*arguments)

    def stream(self) -> None:
        started = perf_counter()
        self.probe.read()
        self.apart_s.append(perf_counter() - started)


class SmallModel:
    """A layer of GLM-4.7's structure between an embedding and a head, decoding one row a step."""

    def __init__(self, name: str) -> None:
        config = config_of(published("glm-4.7", "q8_0"))
        self._probe = Probe(min(max(2 * last_level_cache_bytes(), LEAST_PROBE), MOST_PROBE))
        table = rotary_table(CONTEXT, config.rotated_size, config.rope_base, None, 1.0)
        config = replace(config, hidden_size=HIDDEN)
        self._layers = ColdLayers(config, CpuBackend(), table, probe=self._probe)
        cache = KvCache(1, 1, KV_HEADS, CONTEXT, config.head_size, "f16")
        words = random_matrix(FORMATS[name], HIDDEN, HIDDEN)
        norm_D, logits_TV = np.ones(HIDDEN, np.float32), np.zeros((1, VOCAB_SIZE), np.float32)
        block = _weights(name, config.head_size)
        weights = ModelWeights(words, (block,), norm_D, words, None)
        trunk = OneLayer(self._layers, weights, cache, logits_TV)
        anything = Weights(1, Device(1.0))
        auto = AutoPolicy(step_cost([anything], [anything], anything), EXPERTS, config.num_used_experts, False)
        self._engine = Engine(trunk, NoDrafter(), PerRequest(auto), 1)
        self._sequence = self._begun()
        assert isinstance(block.ffn, MoeWeights)
        assert isinstance(block.ffn.experts, ExpertLayer)
        ids_TK = np.arange(config.num_used_experts, dtype=np.int32)[None]
        x_TD, weights_TK = np.ones((1, HIDDEN), np.float32), np.ones(ids_TK.shape, np.float32)
        self._experts = partial(moe_ffn, x_TD, ids_TK, weights_TK, block.ffn.experts)

    def step(self) -> tuple[float, float, float]:
        """Seconds of the layer, of the rest of a step, and of its experts called for alone, as for an accelerator."""
        if len(self._sequence.token_ids) == CONTEXT:
            self._sequence = self._begun()
        self._layers.seconds.clear()
        self._layers.apart_s.clear()
        started = perf_counter()
        self._engine.step([self._sequence])
        seconds = perf_counter() - started - sum(self._layers.apart_s)
        self._probe.read()
        started = perf_counter()
        self._experts()
        experts_s = perf_counter() - started
        return self._layers.seconds[0], seconds - self._layers.seconds[0], experts_s

    def _begun(self) -> Sequence:
        return Sequence(0, [0], CONTEXT, Sampler(SamplingParams(temperature=0)), frozenset(), drafting=OFF)


def overheads_s(name: str, budget_s: float) -> tuple[float, float, float]:
    """Seconds of a layer whose weights, of this format, are few, of a step beside its layers, of a call for experts."""
    model, begun = SmallModel(name), perf_counter()
    found = [model.step() for _ in range(LEAST_ROUNDS)]
    while perf_counter() - begun < budget_s:
        found.append(model.step())
    layer_s, rest_s, experts_s = (statistics.median(seconds) for seconds in zip(*found[2:], strict=True))
    return layer_s, rest_s, experts_s


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
