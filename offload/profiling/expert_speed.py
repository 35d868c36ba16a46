"""How fast expert kernels go through weights, by format, layout and number of rows, on experts of GLM-4.7's shape."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

import experts
from experts import FORMATS, ExpertLayer, Format, MatrixStack, moe_ffn

from ..hardware import EXPERT_COLUMNS
from ..huge_pages import fresh_memory
from . import long_rows
from .caches import last_level_cache_bytes
from .random_layer import random_layer
from .samples import Sample, in_turn

HIDDEN, FFN, TOP_K = EXPERT_COLUMNS, 1536, 8
LAYOUTS = ("native", "interleaved", "expanded")
CACHES = 4  # layers are so many times as large as the last-level caches
LONG_ROWS_SHARE = 0.2  # of the time


@dataclass(frozen=True)
class Speed:
    format: str  # as the layout has it: expanded weights have formats of their own
    layout: str
    bytes_read: int  # by a step: each expert once
    samples: Mapping[int, Sample]  # by rows of a step
    long_rows: float  # speed with long rows of weights, of that with the experts'

    def bytes_per_s(self, call_s: float) -> dict[int, float]:
        """By rows; without what a call takes beside its weights, which is not believed to be more than half."""
        seconds = {rows: sample.median for rows, sample in self.samples.items()}
        return {rows: self.bytes_read / max(whole_s / 2, whole_s - call_s) for rows, whole_s in seconds.items()}


def laid_out(layer: ExpertLayer, layout: str) -> ExpertLayer | None:
    """The layer in this layout, None where its format has none such."""
    stacks = [stack for stack in (layer.gate, layer.up, layer.down) if isinstance(stack, experts.MatrixStack)]
    if layout == "native":
        return layer
    if layout == "interleaved":
        if not all(experts.can_interleave(stack.format, stack.rows) for stack in stacks):
            return None
        return ExpertLayer(*(experts.interleave(stack, fresh_memory(stack.data.size)) for stack in stacks))
    if not all(experts.expanded_format(stack.format, stack.rows) for stack in stacks):
        return None
    return ExpertLayer(*(experts.expand(stack, fresh_memory(experts.expanded_bytes(stack))) for stack in stacks))


def num_experts(name: str) -> int:
    """Of a layer of this format that no cache holds, and that two steps share no expert of."""
    return max(2 * TOP_K, -(-CACHES * last_level_cache_bytes() // expert_bytes(name)))


def expert_bytes(name: str) -> int:
    fmt = FORMATS[name]
    return 3 * HIDDEN * FFN // fmt.block_weights * fmt.block_bytes


def format_in(fmt: Format, layout: str) -> Format:
    """What weights of this format are in a layout that they have."""
    wide = experts.expanded_format(fmt, experts.PANEL_ROWS) if layout == "expanded" else None
    return wide or fmt


def layer_bytes(name: str, layouts: Sequence[str]) -> int:
    """Memory that `measure_format` takes: the layer in all of these layouts, which the format has."""
    fmt = FORMATS[name]
    blocks = num_experts(name) * expert_bytes(name) // fmt.block_bytes
    return blocks * sum(format_in(fmt, layout).block_bytes for layout in layouts)


def measure_format(name: str, rows: Sequence[int], budget_s: float, layouts: Sequence[str] = LAYOUTS) -> list[Speed]:
    """All layouts, all numbers of rows in turn. The rows of a step choose the same experts, steps choose others."""
    native = random_layer(FORMATS[name], num_experts(name), HIDDEN, FFN)
    layers = {layout: layer for layout in layouts if (layer := laid_out(native, layout))}
    steps = {(layout, T): _Step(layer, T) for layout, layer in layers.items() for T in rows}
    samples = in_turn(steps, (1 - LONG_ROWS_SHARE) * budget_s)
    found = []
    for layout, layer in layers.items():
        assert isinstance(layer.gate, MatrixStack)
        share = long_rows.speed_share(layer.gate, LONG_ROWS_SHARE * budget_s / len(layers))
        by_rows = {T: samples[layout, T] for T in rows}
        found.append(Speed(layer.gate.format.name, layout, TOP_K * layer.expert_bytes, by_rows, share))
    return found


class _Step:
    """One step of T rows; every call goes on to the next experts."""

    def __init__(self, layer: ExpertLayer, T: int) -> None:
        self._layer, self._T, self._offset = layer, T, 0
        self._x_TD = np.random.default_rng(1).standard_normal((T, HIDDEN), dtype=np.float32)
        self._weights_TK = np.full((T, TOP_K), 1 / TOP_K, np.float32)

    def __call__(self) -> None:
        ids_K = (np.arange(TOP_K) + self._offset) % self._layer.num_experts
        self._offset += TOP_K
        moe_ffn(self._x_TD, np.resize(ids_K, (self._T, TOP_K)).astype(np.int32), self._weights_TK, self._layer)
