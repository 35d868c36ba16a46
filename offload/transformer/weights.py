"""The weights of a model as the backend holds them: plain records, nothing computed here."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from experts import ExpertLayer, Format, Matrix, Stack

from .backend import Array, Weight


@dataclass(frozen=True)
class DeviceMatrix:
    """An encoded matrix, or one for each of E experts, in the memory of an accelerator."""

    format: Format
    rows: int
    columns: int
    data: Array  # uint8 (rows, row bytes) or (E, rows, row bytes)


@dataclass(frozen=True)
class DeviceExperts:
    """The routed experts of a layer in the memory of an accelerator."""

    gate: DeviceMatrix
    up: DeviceMatrix
    down: DeviceMatrix

    @property
    def expert_bytes(self) -> int:
        """Bytes of one expert's three matrices."""
        return sum(int(part.data.nbytes) // len(part.data) for part in (self.gate, self.up, self.down))


@dataclass(frozen=True)
class AttentionWeights:
    norm: Array
    q: Weight
    k: Weight
    v: Weight
    output: Weight
    q_bias: Array | None
    k_bias: Array | None
    v_bias: Array | None
    q_norm: Array | None
    k_norm: Array | None

    @property
    def of_cache(self) -> tuple[Weight, ...]:
        """What a row needs to be seen by later ones."""
        return self.k, self.v


@dataclass(frozen=True)
class LatentAttentionWeights:
    """Attention over compressed keys and values (MLA)."""

    norm: Array
    q_down: Weight | None  # where queries are compressed
    q_down_norm: Array | None
    q: Weight  # from hidden or compressed queries to heads
    kv_down: Weight  # to a row of the cache
    kv_norm: Array
    k_heads: Weight  # (H, L, P): each head's queries to latent space
    v_heads: Weight  # (H, S, L): what each head read to its values
    output: Weight

    @property
    def of_cache(self) -> tuple[Weight, ...]:
        """What a row needs to be seen by later ones."""
        return (self.kv_down,)


@dataclass(frozen=True)
class FfnWeights:
    """A SwiGLU network: a dense layer's, or the shared experts of a MoE layer."""

    gate: Weight
    up: Weight
    down: Weight


@dataclass(frozen=True)
class MoeWeights:
    router: Weight
    router_bias: Array
    experts: ExpertLayer | DeviceExperts  # on the host, or on the backend's device
    shared: FfnWeights | None


@dataclass(frozen=True)
class BlockWeights:
    attention: AttentionWeights | LatentAttentionWeights
    ffn_norm: Array
    ffn: FfnWeights | MoeWeights


@dataclass(frozen=True)
class MtpWeights:
    """The MTP block. Embedding and head may be the trunk's own."""

    embedding: Weight
    embedding_norm: Array  # enorm
    hidden_norm: Array  # hnorm
    projection: Weight  # eh_proj: (D, 2 D), embedding first
    block: BlockWeights
    head_norm: Array
    head: Weight


@dataclass(frozen=True)
class ModelWeights:
    embedding: Weight
    blocks: tuple[BlockWeights, ...]
    output_norm: Array
    head: Weight
    mtp: MtpWeights | None


def host_weights(weights: Any) -> Iterator[Matrix | Stack]:
    """All encoded weights in a record that the CPU multiplies with, tables of embeddings aside."""
    if isinstance(weights, Matrix | Stack):
        yield weights
    elif isinstance(weights, ExpertLayer):
        yield from (weights.gate, weights.up, weights.down)
    elif isinstance(weights, tuple):
        for part in weights:
            yield from host_weights(part)
    elif is_dataclass(weights):
        for field in fields(weights):
            if field.name != "embedding":
                yield from host_weights(getattr(weights, field.name))
