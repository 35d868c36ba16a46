"""Takes a checkpoint's tensors to their places: each to the device that the placement names."""

from collections.abc import Callable, Mapping

import numpy as np

import experts
from experts import ScatteredStack, Stack

from ..checkpoints.checkpoint import Tensor
from ..checkpoints.stored import as_matrix
from ..errors import UnsupportedModel
from ..placement import HOST, Placement
from ..transformer.backend import Array, Backend, Experts, Weight
from ..transformer.config import ARCHITECTURES, ModelConfig
from ..transformer.weights import (
    AttentionWeights,
    BlockWeights,
    FfnWeights,
    LatentAttentionWeights,
    ModelWeights,
    MoeWeights,
    MtpWeights,
)
from .layout import Layout
from .tensors import listed

Progress = Callable[[int, int], None]  # blocks done, blocks in all


def load_weights(
    tensors: Mapping[str, Tensor],
    config: ModelConfig,
    placement: Placement,
    backends: Mapping[str, Backend],
    layout: Layout,
    progress: Progress = lambda done, total: None,
) -> ModelWeights:
    """Takes every tensor to its place.

    Args:
        tensors: checked by `usable_tensors`.
        placement: names a device for each of them.
        backends: of all devices that the placement names.
        layout: of what stands on the CPU.
        progress: called with blocks loaded and blocks in all.

    Raises:
        UnsupportedModel: a block format that no kernel reads.
    """
    loader = _Loader(tensors, config, placement, backends, layout)
    total = config.num_layers + placement.has_mtp(config)
    blocks = []
    for block in range(config.num_layers):
        blocks.append(loader.block(block))
        progress(block + 1, total)
    embedding = loader.matrix("token_embd.weight")
    head = loader.optional_matrix("output.weight") or embedding
    output_norm = loader.vector("output_norm.weight")
    mtp = loader.mtp(config.num_layers, embedding, output_norm, head) if placement.has_mtp(config) else None
    assert not loader.tensors, f"{listed(list(loader.tensors))} left behind"
    progress(total, total)
    return ModelWeights(embedding, tuple(blocks), output_norm, head, mtp)


class _Loader:
    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        config: ModelConfig,
        placement: Placement,
        backends: Mapping[str, Backend],
        layout: Layout,
    ):
        self.tensors = dict(tensors)
        self.config, self.placement, self.backends, self.layout = config, placement, backends, layout

    def block(self, block: int) -> BlockWeights:
        name = f"blk.{block}."
        ffn = self.ffn(name, "") if block < self.config.num_dense_layers else self.moe(name)
        ffn_norm = self.vector(name + ARCHITECTURES[self.config.architecture].ffn_norm)
        attention = self.attention(name) if self.config.latent is None else self.latent_attention(name)
        return BlockWeights(attention, ffn_norm, ffn)

    def attention(self, name: str) -> AttentionWeights:
        return AttentionWeights(
            norm=self.vector(name + "attn_norm.weight"),
            q=self.matrix(name + "attn_q.weight"),
            k=self.matrix(name + "attn_k.weight"),
            v=self.matrix(name + "attn_v.weight"),
            output=self.matrix(name + "attn_output.weight"),
            q_bias=self.optional_vector(name + "attn_q.bias"),
            k_bias=self.optional_vector(name + "attn_k.bias"),
            v_bias=self.optional_vector(name + "attn_v.bias"),
            q_norm=self.optional_vector(name + "attn_q_norm.weight"),
            k_norm=self.optional_vector(name + "attn_k_norm.weight"),
        )

    def latent_attention(self, name: str) -> LatentAttentionWeights:
        compressed = name + "attn_q_a.weight" in self.tensors
        return LatentAttentionWeights(
            norm=self.vector(name + "attn_norm.weight"),
            q_down=self.optional_matrix(name + "attn_q_a.weight"),
            q_down_norm=self.optional_vector(name + "attn_q_a_norm.weight"),
            q=self.matrix(name + ("attn_q_b.weight" if compressed else "attn_q.weight")),
            kv_down=self.matrix(name + "attn_kv_a_mqa.weight"),
            kv_norm=self.vector(name + "attn_kv_a_norm.weight"),
            k_heads=self.heads(name + "attn_k_b.weight"),
            v_heads=self.heads(name + "attn_v_b.weight"),
            output=self.matrix(name + "attn_output.weight"),
        )

    def ffn(self, block: str, kind: str) -> FfnWeights:
        return FfnWeights(*(self.matrix(f"{block}ffn_{part}{kind}.weight") for part in ("gate", "up", "down")))

    def moe(self, block: str) -> MoeWeights:
        bias = self.optional_vector(block + "exp_probs_b.bias")
        if bias is None:
            zeros = np.zeros(self.config.num_experts, np.float32)
            bias = self.home(block + "ffn_gate_inp.weight").upload_vector(block + "exp_probs_b.bias", zeros)
        return MoeWeights(
            router=self.matrix(block + "ffn_gate_inp.weight"),
            router_bias=bias,
            experts=self.experts(block),
            shared=self.ffn(block, "_shexp") if self.config.num_shared_experts else None,
        )

    def mtp(self, block: int, embedding: Weight, output_norm: Array, head: Weight) -> MtpWeights:
        name = f"blk.{block}."
        head_norm = self.optional_vector(name + "nextn.shared_head_norm.weight")
        return MtpWeights(
            embedding=self.optional_matrix(name + "nextn.embed_tokens.weight") or embedding,
            embedding_norm=self.vector(name + "nextn.enorm.weight"),
            hidden_norm=self.vector(name + "nextn.hnorm.weight"),
            projection=self.matrix(name + "nextn.eh_proj.weight"),
            block=self.block(block),
            head_norm=output_norm if head_norm is None else head_norm,
            head=self.optional_matrix(name + "nextn.shared_head_head.weight") or head,
        )

    def experts(self, block: str) -> Experts:
        names = [f"{block}ffn_{part}_exps.weight" for part in ("gate", "up", "down")]
        for name in names:
            if self.tensors[name].interleaved and self.placement.tensors[name] != HOST:
                raise UnsupportedModel(
                    f"tensor {name} is interleaved for the CPU and cannot stand on {self.placement.tensors[name]}: "
                    "use the file that it was packed from"
                )
        stacks = [self.stack(name) for name in names]
        return self.home(names[0]).upload_experts(names[0].replace("gate", "*"), *stacks)

    def stack(self, name: str) -> Stack:
        stack = self.layout.stack(self.tensors.pop(name))
        on_device = self.placement.tensors[name] != HOST
        return stack.gathered() if on_device and isinstance(stack, ScatteredStack) else stack

    def home(self, name: str) -> Backend:
        return self.backends[self.placement.tensors[name]]

    def matrix(self, name: str) -> Weight:
        return self.home(name).upload(name, self.layout.matrix(self.tensors.pop(name)))

    def heads(self, name: str) -> Weight:
        return self.home(name).upload_heads(name, self.stack(name))

    def optional_matrix(self, name: str) -> Weight | None:
        return self.matrix(name) if name in self.tensors else None

    def vector(self, name: str) -> Array:
        tensor = self.tensors.pop(name)
        return self.home(name).upload_vector(name, experts.dequantize(as_matrix(tensor)).reshape(tensor.shape))

    def optional_vector(self, name: str) -> Array | None:
        return self.vector(name) if name in self.tensors else None
