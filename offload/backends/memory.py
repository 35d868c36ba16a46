"""Bytes that tensors, caches and work take in the memory of a device.

Shapes: T rows computed together, D hidden, H query heads, C head size, E experts, K experts per row, F expert FFN.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Protocol

import experts

from ..errors import OptionError
from ..transformer.config import ModelConfig
from ..transformer.kv_cache import CACHE_TYPES

ATTENTION_CHUNK = 128  # positions that attention takes together
TEMPORARIES = 4  # arrays of a piece's size that live at a time while it is decoded, multiplied and summed
CONSTANTS_BYTES = 64  # the values of IQ4
MOST_QUEUED = 512  # pairs of a slot that wait to be filled; their states take 20 KB each in GLM-4.7
MOST_DRAFTED = 9  # rows of a sequence in a step: its newest token and what is drafted
PAGE_BYTES = 2 << 20  # torch's CUDA allocator takes large blocks in multiples of this
ALLOCATOR_BYTES = 256 << 20  # that it may hold without being able to use them
REPLAY_BYTES = 256 << 20  # work that the cuda backend replays: 0.1 MiB for each graph, and values that pass through
LARGE_BYTES = 10 << 20  # from here on torch rounds allocations up to a page

# What a device that does not decode a format keeps its weights in: the narrowest that loses nothing (eager/expand.py
# checks it weight by weight). Of the others some weights at least can be expected to need float32.
WIDER = {
    "Q5_0": "Q8_0",
    "IQ4_NL": "Q8_0",
    "MXFP4": "Q8_0",
    "Q3_K": "Q6_K",
    "IQ3_S": "Q6_K",
}

# What the accelerators' backends decode; their own tables say the same (a test compares them).
DEVICE_FORMATS = (
    "F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K",
    "IQ4_XS",
)  # fmt: skip


class TensorSize(Protocol):
    """What the header of a file says about a tensor."""

    @property
    def name(self) -> str: ...
    @property
    def ggml_type(self) -> int: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def num_bytes(self) -> int: ...
    @property
    def interleaved(self) -> bool: ...


@dataclass(frozen=True)
class Workload:
    """What memory has to be kept for besides weights."""

    context: int  # tokens
    cache_type: str
    rows: int  # computed together, of a prompt
    num_slots: int = 1  # sequences, each with a cache of this context

    def __post_init__(self) -> None:
        for name, value in (("chunk_size", self.rows), ("slots", self.num_slots)):
            if not isinstance(value, Integral) or value < 1:
                raise OptionError(f"{name} is {value}; it must be at least 1, a whole number")


@dataclass(frozen=True)
class DeviceMemory:
    """The memory of an accelerator, and how its backend uses it."""

    free_bytes: int | None  # None if the device cannot tell
    formats: Collection[str]  # that are kept as they are in the file
    piece: int  # elements that are computed at a time
    page_bytes: int = 1  # that large allocations are rounded up to
    overhead_bytes: int = 0  # of drivers and allocators

    def capped(self, num_bytes: int | None) -> "DeviceMemory":
        """The same device, of which no more than so many bytes are used."""
        if num_bytes is None:
            return self
        return replace(self, free_bytes=num_bytes if self.free_bytes is None else min(num_bytes, self.free_bytes))

    def stored_format(self, tensor: TensorSize) -> str:
        """The format that the tensor is kept in."""
        name = experts.format_of(tensor.ggml_type).name
        if len(tensor.shape) < 2:
            return "F32"
        if name in self.formats:
            return name
        wider = WIDER.get(name, "F32")
        return wider if wider in self.formats else "F32"

    def tensor_bytes(self, tensor: TensorSize) -> int:
        stored = experts.FORMATS[self.stored_format(tensor)]
        return self._rounded(math.prod(tensor.shape[:-1]) * experts.row_bytes(stored, tensor.shape[-1]))

    def cache_bytes(self, config: ModelConfig, num_layers: int, context: int, cache_type: str) -> int:
        """Keys and values of that many layers; compressed ones stand in one array."""
        if config.latent is not None:
            return self._rounded(num_layers * context * kv_bytes_per_token(config, cache_type) // config.num_layers)
        return 2 * self._rounded(
            num_layers * context * kv_bytes_per_token(config, cache_type) // 2 // config.num_layers
        )

    def fixed_bytes(self, config: ModelConfig, tensors: Mapping[str, TensorSize], context: int) -> int:
        """The table of RoPE's angles, constants, and biases of routers that the file lacks."""
        routers = [name for name in tensors if name.endswith("ffn_gate_inp.weight")]
        lacking = sum(name.replace("ffn_gate_inp.weight", "exp_probs_b.bias") not in tensors for name in routers)
        return 4 * (context * config.rotated_size + lacking * config.num_experts) + CONSTANTS_BYTES

    def working_bytes(self, config: ModelConfig, work: Workload, experts_here: bool, has_mtp: bool) -> int:
        """What a step takes for a moment, at the most.

        Args:
            experts_here: whether routed experts of the trunk stand on the device.
            has_mtp: whether the MTP block does; it is shown waiting tokens, whose states are kept till then, together.
        """
        context = work.context
        T = min(work.rows, context * work.num_slots) + MOST_DRAFTED * work.num_slots
        late = min(context, MOST_QUEUED + work.rows) * work.num_slots if has_mtp else 0
        D, E, K, F = config.hidden_size, config.num_experts, config.num_used_experts, config.expert_ffn_size
        QC, AC = config.num_heads * config.head_size, config.num_kv_heads * config.head_size
        X = max(config.dense_ffn_size, config.num_shared_experts * F)
        widest = max(D + 6 * QC + 6 * AC, 8 * X, 12 * E)
        activations = T * (4 * D + widest) + (T if experts_here else work.num_slots) * K * (4 * D + 8 * F)
        activations = max(activations, late * (8 * D + 6 * AC)) + late * D
        matrix = max(D * max(QC, X), D * F * K, config.vocab_size * D)
        attended = min(T, max(1, self.piece // (QC * ATTENTION_CHUNK))) * QC * min(context, ATTENTION_CHUNK)
        scratch = max(min(self.piece, max(T, late) * matrix), attended)
        return (
            4 * (activations + TEMPORARIES * scratch + 2 * MOST_DRAFTED * work.num_slots * config.vocab_size)
            + self.overhead_bytes
        )

    def _rounded(self, num_bytes: int) -> int:
        return num_bytes if num_bytes < LARGE_BYTES else -(-num_bytes // self.page_bytes) * self.page_bytes


def kv_bytes_per_token(config: ModelConfig, cache_type: str) -> int:
    """Bytes of keys and values of one position over all layers of the trunk.

    Raises:
        OptionError: the type is unknown, or cannot hold heads of this size.
    """
    if cache_type not in CACHE_TYPES:
        raise OptionError(f"cache type {cache_type!r} is unknown; choose one of {', '.join(CACHE_TYPES)}")
    try:
        rows = 2 * config.num_kv_heads if config.latent is None else 1
        return config.num_layers * rows * CACHE_TYPES[cache_type].row_bytes(config.head_size)
    except ValueError as error:
        raise OptionError(str(error)) from None


def total_bytes(tensors: Iterable[TensorSize]) -> int:
    """As they are in the file, which is how the host keeps them."""
    return sum(tensor.num_bytes for tensor in tensors)
