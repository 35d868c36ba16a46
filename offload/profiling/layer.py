"""What a step takes on the processor beside reading weights: a layer's calls, what is around the layers, attention.

Weights push everything else out of the caches, so calls find their own code and data in memory again. Here other
memory is read in their stead. A layer is what a model with more of them takes longer: steps of few rows run all layers
in one call.

Shapes: T rows, D hidden, F FFN, E experts, K experts per row, H query heads, G key-value heads, C head size,
S positions, V vocabulary.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from time import perf_counter

import numpy as np
import torch

from experts import FORMATS, Matrix, moe_ffn
from experts.attention import attention
from scheduler import AutoPolicy, Device, PerRequest, Weights, step_cost

from ..backends.cpu import CpuBackend
from ..backends.cpu_layers import CpuLayers
from ..backends.cpu_trunk import CpuTrunk
from ..backends.handoff import Link, RoutedOnHost, Sent
from ..drafting import NoDrafter
from ..engine import Engine
from ..hardware.probe import Probe
from ..ledger import Ledger
from ..planning.shapes import VOCAB_SIZE, published
from ..sampling import Sampler, SamplingParams
from ..sequence import OFF, Sequence
from ..transformer.config import config_of
from ..transformer.kv_cache import KvCache
from ..transformer.rotary import rotary_table
from ..transformer.weights import AttentionWeights, BlockWeights, FfnWeights, ModelWeights, MoeWeights
from .caches import last_level_cache_bytes
from .random_layer import random_layer, random_matrix
from .samples import in_turn

HIDDEN, FFN, EXPERTS, TOP_K, HEADS, KV_HEADS = 256, 256, 16, 8, 2, 2  # so little that calls are what takes the time
LEAST_ROUNDS = 9
MORE_LAYERS = 4
OVERHEADS_SHARE = 0.8  # of the time, the rest is for attention
LEAST_PROBE, MOST_PROBE = 64 << 20, 256 << 20  # bytes
CONTEXT = 256  # positions, after which the text begins anew
GLM_HEADS, GLM_KV_HEADS, HEAD_SIZE = 96, 8, 128
POSITIONS = 4096  # enough for every thread


@dataclass(frozen=True)
class Beside:
    layer_s: float  # of a decoder layer among others
    step_s: float  # of a step, beside its layers
    call_s: float  # of a call for a layer's experts alone
    hand_over_s: float  # of the same for rows that an accelerator has sent
    attention_flops: float  # a second, of one row over keys and values in f16


@dataclass(frozen=True)
class LargeVocabulary(CpuTrunk):
    """A trunk with as many scores as GLM's vocabulary has tokens, though its head makes fewer."""

    probe: Probe = field(kw_only=True)
    logits_TV: np.ndarray = field(kw_only=True)
    apart_s: list[float] = field(default_factory=list)  # what reading took

    def logits(self, hidden_TD: np.ndarray) -> np.ndarray:
        self.apart_s.append(_seconds(self.probe.read))  # as the layers' weights would have been
        super().logits(hidden_TD)
        return self.logits_TV


class SmallModel:
    """Layers of GLM-4.7's structure between an embedding and a head, decoding one row a step."""

    def __init__(self, name: str, num_layers: int, probe: Probe) -> None:
        config = replace(config_of(published("glm-4.7", "q8_0")), hidden_size=HIDDEN)
        table = rotary_table(CONTEXT, config.rotated_size, config.rope_base, None, 1.0)
        layers = CpuLayers(config, CpuBackend(), table)
        cache = KvCache(num_layers, 1, KV_HEADS, CONTEXT, config.head_size, "f16")
        words = random_matrix(FORMATS[name], HIDDEN, HIDDEN)
        blocks = tuple(_weights(name, config.head_size) for _ in range(num_layers))
        weights = ModelWeights(words, blocks, np.ones(HIDDEN, np.float32), words, None)
        logits_TV = np.zeros((1, VOCAB_SIZE), np.float32)
        self._probe, self._trunk = probe, LargeVocabulary(layers, weights, cache, probe=probe, logits_TV=logits_TV)
        anything = Weights(1, Device(1.0))
        auto = AutoPolicy(step_cost([anything], [anything], anything), EXPERTS, config.num_used_experts, False)
        self._engine = Engine(self._trunk, NoDrafter(), PerRequest(auto), 1)
        self._sequence = self._begun()

    def step(self) -> float:
        """Seconds of a step behind which nothing is left in the caches."""
        if len(self._sequence.token_ids) == CONTEXT:
            self._sequence = self._begun()
        self._trunk.apart_s.clear()
        self._probe.read()
        return _seconds(lambda: self._engine.step([self._sequence])) - sum(self._trunk.apart_s)

    def _begun(self) -> Sequence:
        return Sequence(0, [0], CONTEXT, Sampler(SamplingParams(temperature=0)), frozenset(), drafting=OFF)


class SmallExperts:
    """One row's experts, called for alone."""

    def __init__(self, name: str, probe: Probe) -> None:
        self._layer, self._probe = random_layer(FORMATS[name], EXPERTS, HIDDEN, FFN), probe
        self._row = Sent(
            np.ones((1, HIDDEN), np.float32), np.arange(TOP_K, dtype=np.int32)[None], np.ones((1, TOP_K), np.float32)
        )
        self._link = Link(torch.device("cpu"), Ledger())

    def call(self) -> float:
        row = self._row
        self._probe.read()
        return _seconds(lambda: moe_ffn(row.x_TD, row.expert_ids_TK, row.weights_TK, self._layer))

    def hand_over(self) -> float:
        """From the arrival of the row to its experts' sum, as `RoutedOnHost` makes it."""
        self._probe.read()
        return _seconds(RoutedOnHost(self._link, self._row, self._layer).wait)


def beside_weights(name: str, budget_s: float) -> Beside:
    """With layers whose weights, of this format, are so few that they do not count."""
    probe = Probe(min(max(2 * last_level_cache_bytes(), LEAST_PROBE), MOST_PROBE))
    one, more, alone = SmallModel(name, 1, probe), SmallModel(name, 1 + MORE_LAYERS, probe), SmallExperts(name, probe)
    runs = (one.step, more.step, alone.call, alone.hand_over)
    found, begun = list[list[float]](), perf_counter()
    while len(found) < LEAST_ROUNDS or perf_counter() - begun < OVERHEADS_SHARE * budget_s:
        found.append([run() for run in runs])
    one_s, more_s, call_s, hand_over_s = (statistics.median(seconds) for seconds in zip(*found[2:], strict=True))
    layer_s = max(0.0, more_s - one_s) / MORE_LAYERS
    flops = _attention_flops((1 - OVERHEADS_SHARE) * budget_s)
    return Beside(layer_s, max(0.0, one_s - layer_s), call_s, hand_over_s, flops)


def _attention_flops(budget_s: float) -> float:
    """Operations a second of one row's attention over keys and values in f16, with GLM's heads."""
    cache = KvCache(1, 1, GLM_KV_HEADS, POSITIONS, HEAD_SIZE, "f16")
    q_THC = np.ones((1, GLM_HEADS, HEAD_SIZE), np.float32)
    slot, last = np.zeros(1, np.int64), np.full(1, POSITIONS - 1)
    sample = in_turn({0: partial(attention, q_THC, cache.layers[0], slot, last)}, budget_s)[0]
    return sample.rate(4 * GLM_HEADS * HEAD_SIZE * POSITIONS)


def _seconds(run: Callable[[], object]) -> float:
    started = perf_counter()
    run()
    return perf_counter() - started


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
