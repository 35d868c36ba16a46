"""The shape of a model, read once from a checkpoint's metadata and checked."""

import math
from dataclasses import dataclass
from typing import Any

from ..checkpoints.checkpoint import Checkpoint
from ..errors import CheckpointError, UnsupportedModel
from .rotary import Yarn

SOFTMAX, SIGMOID = "softmax", "sigmoid"
GATINGS = {1: SOFTMAX, 2: SIGMOID}  # expert_gating_func in GGUF


@dataclass(frozen=True)
class Architecture:
    """What the metadata of an architecture's files leave unsaid."""

    ffn_norm: str  # the tensor that norms before the FFN
    gating: str
    normalizes: bool  # a row's expert weights are divided by their sum
    is_latent: bool = False  # attention reads compressed keys and values (MLA)
    has_experts: bool = True  # without them it can draft for others, and nothing else


ARCHITECTURES = {
    "glm4moe": Architecture("post_attention_norm.weight", SIGMOID, normalizes=False),
    "qwen3": Architecture("ffn_norm.weight", SOFTMAX, normalizes=True, has_experts=False),
    "qwen3moe": Architecture("ffn_norm.weight", SOFTMAX, normalizes=True),
    "deepseek2": Architecture("ffn_norm.weight", SOFTMAX, normalizes=False, is_latent=True),
}


@dataclass(frozen=True)
class Routing:
    """How a row's experts are chosen and weighted."""

    num_used: int  # K
    gating: str  # SOFTMAX or SIGMOID: makes scores of the router's logits
    normalizes: bool  # a row's weights are divided by their sum
    scale: float  # factor on all weights
    num_groups: int  # of experts, equally many in each
    num_used_groups: int  # whose experts can be chosen: those with the best scores


NO_ROUTING = Routing(0, SOFTMAX, True, 1.0, 1, 1)


@dataclass(frozen=True)
class LatentSizes:
    """Attention whose keys and values are compressed to one row for all heads (MLA)."""

    q_rank: int  # of compressed queries; 0 where queries are not compressed
    kv_rank: int  # of compressed keys and values; the row of the cache has these and the rotated dimensions
    plain_size: int  # dimensions of a query or key head that are not rotated
    value_size: int  # of a head's values


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of a mixture-of-experts model, MTP block included.

    Source: the keys that llama.cpp's converter writes for the ARCHITECTURES.
    """

    architecture: str
    vocab_size: int  # V
    hidden_size: int  # D
    num_layers: int  # L, without the MTP block
    num_mtp_layers: int
    num_dense_layers: int  # leading layers without experts
    num_heads: int  # H
    num_kv_heads: int  # G
    head_size: int  # C, of what the cache holds
    latent: LatentSizes | None
    rotated_size: int  # R, leading dimensions of a head that RoPE turns; with latent attention the last ones
    rope_base: float
    yarn: Yarn | None
    norm_eps: float
    dense_ffn_size: int
    num_experts: int  # E
    routing: Routing
    num_shared_experts: int
    expert_ffn_size: int  # F
    context_length: int  # what the model was trained for, in tokens

    @property
    def num_used_experts(self) -> int:  # K
        return self.routing.num_used

    @property
    def num_moe_layers(self) -> int:
        return self.num_layers - self.num_dense_layers

    @property
    def query_size(self) -> int:
        """Dimensions of a query head, before it is multiplied into latent space."""
        return self.head_size if self.latent is None else self.latent.plain_size + self.rotated_size

    @property
    def rope_amplitude(self) -> float:
        """Factor on cos and sin."""
        return 1.0 if self.yarn is None or self.latent is not None else self.yarn.amplitude

    @property
    def score_scale(self) -> float:
        """Factor on the product of a query and a key."""
        scale = self.yarn.score_scale if self.yarn is not None and self.latent is not None else 1.0
        return scale / math.sqrt(self.query_size)


def config_of(checkpoint: Checkpoint) -> ModelConfig:
    """Reads and checks the configuration.

    Raises:
        UnsupportedModel: an architecture or a router that nothing here can run.
        CheckpointError: a key is missing, of a wrong type, or absurd.
    """
    architecture = checkpoint.get("general.architecture", str)
    if architecture not in ARCHITECTURES:
        raise UnsupportedModel(f"architecture {architecture!r} is not supported; known: {', '.join(ARCHITECTURES)}")
    read = _Keys(checkpoint, architecture)

    num_blocks = read.number("block_count", 1, 4096)
    num_mtp_layers = read.number("nextn_predict_layers", 0, num_blocks - 1, default=0)
    num_layers = num_blocks - num_mtp_layers
    hidden_size = read.number("embedding_length", 1, 1 << 20)
    num_heads = read.number("attention.head_count", 1, 1 << 14)
    num_kv_heads = read.number("attention.head_count_kv", 1, num_heads, default=num_heads)
    if num_heads % num_kv_heads:
        raise CheckpointError(f"{num_heads} attention heads are no multiple of {num_kv_heads} key-value heads")
    head_size = read.number("attention.key_length", 1, 1 << 14, default=max(1, hidden_size // num_heads))
    rotated_size = read.number("rope.dimension_count", 2, head_size, default=head_size)
    if rotated_size % 2:
        raise CheckpointError(
            f"{architecture}.rope.dimension_count is {rotated_size}; RoPE turns pairs, so it must be even"
        )
    latent = _latent(read, head_size, rotated_size) if ARCHITECTURES[architecture].is_latent else None
    value_size = read.number("attention.value_length", 1, 1 << 14, default=head_size)
    if value_size != (head_size if latent is None else latent.kv_rank):
        raise UnsupportedModel(f"keys of {head_size} and values of {value_size}: {architecture} has one head size")
    has_experts = ARCHITECTURES[architecture].has_experts
    num_experts = read.number("expert_count", 1, 1 << 16) if has_experts else 0
    num_dense = read.number("leading_dense_block_count", 0, num_layers, default=0) if has_experts else num_layers
    return ModelConfig(
        architecture=architecture,
        vocab_size=_vocab_size(checkpoint),
        hidden_size=hidden_size,
        num_layers=num_layers,
        num_mtp_layers=num_mtp_layers,
        num_dense_layers=num_dense,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_size=head_size,
        latent=latent,
        rotated_size=rotated_size,
        rope_base=read.real("rope.freq_base", 2.0, default=10000.0),
        yarn=_yarn(read),
        norm_eps=read.real("attention.layer_norm_rms_epsilon"),
        dense_ffn_size=read.number("feed_forward_length", 1, 1 << 24),
        num_experts=num_experts,
        routing=_routing(read, num_experts) if has_experts else NO_ROUTING,
        num_shared_experts=read.number("expert_shared_count", 0, 1 << 10, default=0),
        expert_ffn_size=read.number("expert_feed_forward_length", 1, 1 << 24) if has_experts else 0,
        context_length=read.number("context_length", 1, 1 << 31),
    )


def _routing(read: "_Keys", num_experts: int) -> Routing:
    defaults = ARCHITECTURES[read.architecture]
    gating = read.number("expert_gating_func", 0, 16, default=0)  # 0: the architecture's own
    if gating and gating not in GATINGS:
        known = " and ".join(f"{number} ({name})" for number, name in GATINGS.items())
        raise UnsupportedModel(f"{read.architecture}.expert_gating_func is {gating}; {known} are known")
    num_groups = max(1, read.number("expert_group_count", 0, num_experts, default=1))
    if num_experts % num_groups:
        raise CheckpointError(f"{num_experts} experts cannot form {num_groups} groups of one size")
    num_used_groups = max(1, read.number("expert_group_used_count", 0, num_groups, default=num_groups))
    return Routing(
        num_used=read.number("expert_used_count", 1, num_experts // num_groups * num_used_groups),
        gating=GATINGS.get(gating, defaults.gating),
        normalizes=read.checkpoint.get(f"{read.architecture}.expert_weights_norm", bool, defaults.normalizes),
        scale=read.real("expert_weights_scale", default=1.0),
        num_groups=num_groups,
        num_used_groups=num_used_groups,
    )


def _latent(read: "_Keys", row_size: int, rotated_size: int) -> LatentSizes:
    prefix = f"{read.architecture}.attention."
    for key in ("key_length_mla", "value_length_mla"):
        if prefix + key not in read.checkpoint.metadata:
            raise UnsupportedModel(
                f"{prefix}{key} is missing, and so is attn_kv_b, which older files have instead: convert or download "
                "it again"
            )
    kv_rank = read.number("attention.kv_lora_rank", 1, 1 << 14)
    key_size = read.number("attention.key_length_mla", rotated_size + 1, 1 << 14)
    if row_size != kv_rank + rotated_size:
        raise CheckpointError(
            f"{prefix}key_length is {row_size}; compressed rows have kv_lora_rank + rotated dimensions = "
            f"{kv_rank} + {rotated_size}"
        )
    if read.number("attention.head_count_kv", 1, 1 << 14, default=1) != 1:
        raise UnsupportedModel(f"{prefix}head_count_kv must be 1: all heads share the compressed rows")
    return LatentSizes(
        q_rank=read.number("attention.q_lora_rank", 0, 1 << 16, default=0),
        kv_rank=kv_rank,
        plain_size=key_size - rotated_size,
        value_size=read.number("attention.value_length_mla", 1, 1 << 14),
    )


def _yarn(read: "_Keys") -> Yarn | None:
    kind = read.checkpoint.get(f"{read.architecture}.rope.scaling.type", str, "none")
    if kind not in ("none", "yarn"):
        raise UnsupportedModel(f"{read.architecture}.rope.scaling.type is {kind!r}; none and yarn are known")
    if kind == "none":
        return None
    return Yarn(
        factor=read.real("rope.scaling.factor"),
        original_context=read.number("rope.scaling.original_context_length", 1, 1 << 31),
        beta_fast=read.real("rope.scaling.yarn_beta_fast", default=32.0),
        beta_slow=read.real("rope.scaling.yarn_beta_slow", default=1.0),
        log_multiplier=read.real("rope.scaling.yarn_log_multiplier", -100.0, 100.0, default=0.0),
    )


def _vocab_size(checkpoint: Checkpoint) -> int:
    embedding = checkpoint.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        found = "missing" if embedding is None else f"of shape {embedding.shape}"
        raise CheckpointError(f"tensor token_embd.weight is {found}; it must be (vocabulary, hidden)")
    return embedding.shape[0]


class _Keys:
    """Metadata under the architecture's prefix, with ranges."""

    def __init__(self, checkpoint: Checkpoint, architecture: str):
        self.checkpoint, self.architecture = checkpoint, architecture

    def number(self, key: str, low: int, high: int, default: int | None = None) -> int:
        return int(self._checked(key, int, low, high, default))

    def real(self, key: str, low: float = 1e-12, high: float = 1e12, default: float | None = None) -> float:
        return float(self._checked(key, float, low, high, default))

    def _checked(self, key: str, kind: type, low: float, high: float, default: Any) -> Any:
        name = f"{self.architecture}.{key}"
        value = self.checkpoint.get(name, kind, *(() if default is None else (default,)))
        if not low <= value <= high:
            raise CheckpointError(
                f"{name} is {value}; the legal range is {low}..{high}: the file is damaged or not a model"
            )
        return value
