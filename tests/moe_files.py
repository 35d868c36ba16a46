"""Small random models of the architectures beside GLM's: as transformers modules, and as GGUF files."""

from dataclasses import dataclass
from typing import Any

import torch
from glm_files import BLOCK_NAMES, VOCAB_SIZE, GlmFile, file_of, randomize, trunk_tensors
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

FFN_NORM = BLOCK_NAMES | {"post_attention_layernorm.weight": "ffn_norm.weight"}


@dataclass
class RandomModel:
    trunk: Any
    file: GlmFile


def random_qwen3moe(seed: int = 0, layers: int = 3) -> RandomModel:
    torch.manual_seed(seed)
    config = Qwen3MoeConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=64,
        intermediate_size=96,
        moe_intermediate_size=32,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        num_experts=8,
        num_experts_per_tok=3,
        norm_topk_prob=True,
        max_position_embeddings=512,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        attn_implementation="eager",
    )
    trunk = Qwen3MoeForCausalLM(config).eval()
    randomize(trunk)
    keys = {
        "block_count": layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.freq_base": 10000.0,
        "expert_count": config.num_experts,
        "expert_used_count": config.num_experts_per_tok,
        "expert_feed_forward_length": config.moe_intermediate_size,
    }
    return RandomModel(trunk, file_of("qwen3moe", keys, trunk_tensors(trunk, FFN_NORM)))
