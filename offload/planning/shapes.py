"""The published models by name, as the headers of their files would tell them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import experts

from ..checkpoints.checkpoint import Absent, Checkpoint, Tensor
from ..errors import OptionError
from ..transformer.arch import expected_tensors
from ..transformer.config import config_of
from .quants import QUANTS, format_in

VOCAB_SIZE = 151552
QK_NORMS = ("attn_q_norm.weight", "attn_k_norm.weight")
OWN_MTP = ("nextn.embed_tokens.weight", "nextn.shared_head_head.weight")


@dataclass(frozen=True)
class Shape:
    """What tells a GLM mixture-of-experts model from its sisters."""

    hidden: int
    layers: int
    dense_layers: int
    experts: int
    expert_ffn: int
    dense_ffn: int
    scale: float
    context: int
    qk_norm: bool = True
    own_mtp: bool = False  # the MTP block has an embedding and a head of its own

    def metadata(self) -> dict[str, Any]:
        """Under GGUF's keys."""
        keys = {
            "block_count": self.layers + 1,
            "nextn_predict_layers": 1,
            "context_length": self.context,
            "embedding_length": self.hidden,
            "feed_forward_length": self.dense_ffn,
            "attention.head_count": 96,
            "attention.head_count_kv": 8,
            "attention.key_length": 128,
            "attention.value_length": 128,
            "attention.layer_norm_rms_epsilon": 1e-5,
            "rope.freq_base": 1e6,
            "rope.dimension_count": 64,
            "expert_count": self.experts,
            "expert_used_count": 8,
            "expert_shared_count": 1,
            "expert_feed_forward_length": self.expert_ffn,
            "leading_dense_block_count": self.dense_layers,
            "expert_gating_func": 2,
            "expert_weights_scale": self.scale,
            "expert_weights_norm": True,
        }
        return {"general.architecture": "glm4moe", **{f"glm4moe.{key}": value for key, value in keys.items()}}


SHAPES: Mapping[str, Shape] = {
    "glm-4.5-air": Shape(4096, 46, 1, 128, 1408, 10944, 1.0, 131072, qk_norm=False, own_mtp=True),
    "glm-4.5": Shape(5120, 92, 3, 160, 1536, 12288, 2.5, 131072, own_mtp=True),
    "glm-4.6": Shape(5120, 92, 3, 160, 1536, 12288, 2.5, 202752),
    "glm-4.7": Shape(5120, 92, 3, 160, 1536, 12288, 2.5, 202752),
}


def published(name: str, quant: str) -> Checkpoint:
    """The model of this name, quantized by llama.cpp: sizes alone.

    Raises:
        OptionError: an unknown name or quantization.
    """
    if name.lower() not in SHAPES:
        raise OptionError(f"shape {name!r} is unknown; choose one of {', '.join(SHAPES)}")
    if quant.lower() not in QUANTS:
        raise OptionError(f"quant {quant!r} is unknown; choose one of {', '.join(QUANTS)}")
    shape, quant = SHAPES[name.lower()], quant.lower()
    metadata = {**shape.metadata(), "general.name": f"{name.lower()} {quant}"}
    embedding = _tensor("token_embd.weight", (VOCAB_SIZE, shape.hidden), experts.FORMATS["F32"])
    config = config_of(Checkpoint((), metadata, {embedding.name: embedding}))
    left_out = (() if shape.qk_norm else QK_NORMS) + (() if shape.own_mtp else OWN_MTP)
    tensors = {
        tensor: _tensor(tensor, size, format_in(quant, tensor, size, config))
        for tensor, size, _ in expected_tensors(config)
        if not tensor.endswith(left_out)
    }
    return Checkpoint((), metadata, tensors)


def _tensor(name: str, shape: tuple[int, ...], fmt: experts.Format) -> Tensor:
    return Tensor(name, fmt.ggml_type, shape, Absent(experts.row_bytes(fmt, shape[-1])))
