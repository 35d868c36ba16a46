"""Small random models of the architectures beside GLM's: as transformers modules, and as GGUF files."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from glm_files import (
    BLOCK_NAMES,
    EXPERTS,
    ROPE,
    SIZES,
    GlmFile,
    add_mtp_block,
    file_of,
    keys_of,
    randomize,
    trunk_tensors,
)
from transformers import (
    DeepseekV2Config,
    DeepseekV2ForCausalLM,
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    Glm4MoeLiteConfig,
    Glm4MoeLiteForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)
from transformers.modeling_layers import MtpModel

FFN_NORM = BLOCK_NAMES | {"post_attention_layernorm.weight": "ffn_norm.weight"}


@dataclass
class RandomModel:
    trunk: Any
    file: GlmFile
    mtp: MtpModel | None = None


def random_qwen3moe(seed: int = 0, layers: int = 3) -> RandomModel:
    torch.manual_seed(seed)
    config = Qwen3MoeConfig(**SIZES, **EXPERTS, num_hidden_layers=layers, num_experts=8, rope_parameters=ROPE)
    trunk = Qwen3MoeForCausalLM(config).eval()
    randomize(trunk)
    keys = {**keys_of(config), "expert_count": config.num_experts}
    return RandomModel(trunk, file_of("qwen3moe", keys, trunk_tensors(trunk, FFN_NORM)))


def random_qwen3(seed: int = 0, layers: int = 2) -> RandomModel:
    """Dense: a draft model."""
    torch.manual_seed(seed)
    smaller = SIZES | {"hidden_size": 48, "head_dim": 16}
    trunk = Qwen3ForCausalLM(Qwen3Config(**smaller, num_hidden_layers=layers, rope_parameters=ROPE)).eval()
    randomize(trunk)
    return RandomModel(trunk, file_of("qwen3", keys_of(trunk.config), trunk_tensors(trunk, FFN_NORM)))


LATENT_NAMES = FFN_NORM | {
    "self_attn.q_a_proj.weight": "attn_q_a.weight",
    "self_attn.q_a_layernorm.weight": "attn_q_a_norm.weight",
    "self_attn.q_b_proj.weight": "attn_q_b.weight",
    "self_attn.kv_a_proj_with_mqa.weight": "attn_kv_a_mqa.weight",
    "self_attn.kv_a_layernorm.weight": "attn_kv_a_norm.weight",
    "self_attn.kv_b_proj.weight": "attn_kv_b.weight",
}


LATENT_SIZES: dict[str, Any] = {
    **{name: size for name, size in SIZES.items() if name != "head_dim"},
    **EXPERTS,
    "num_hidden_layers": 3,
    "num_key_value_heads": 4,
    "kv_lora_rank": 48,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 24,
    "v_head_dim": 24,
    "n_routed_experts": 8,
    "first_k_dense_replace": 1,
}
YARN: dict[str, Any] = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 128,
    "beta_fast": 32,
    "beta_slow": 1,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
}


def random_deepseek3(seed: int = 0, kv_rank: int = 48) -> RandomModel:
    """DeepSeek-V3 in small: groups of experts, sigmoid with a bias, YaRN, an MTP block."""
    torch.manual_seed(seed)
    config = DeepseekV3Config(
        **LATENT_SIZES | {"kv_lora_rank": kv_rank},
        q_lora_rank=40,
        n_group=4,
        topk_group=2,
        n_shared_experts=1,
        routed_scaling_factor=2.5,
        rope_parameters=YARN,
    )
    return _latent_model(DeepseekV3ForCausalLM(config), 2, "sigmoid")


def random_glm_flash(seed: int = 0) -> RandomModel:
    """GLM-4.7-Flash in small: values of another size than keys, one group, no YaRN, an MTP block."""
    torch.manual_seed(seed)
    config = Glm4MoeLiteConfig(
        **LATENT_SIZES | {"v_head_dim": 32},
        rms_norm_eps=1e-6,  # transformers' norms of compressed rows have this one whatever the config says
        q_lora_rank=40,
        n_group=1,
        topk_group=1,
        n_shared_experts=1,
        routed_scaling_factor=1.8,
        mlp_layer_types=["dense", "sparse", "sparse"],
        rope_parameters=ROPE,
    )
    config.num_mtp_layers, config.mtp_mlp_layer_types = 1, ["sparse"]
    return _latent_model(Glm4MoeLiteForCausalLM(config), 2, "sigmoid")


def random_deepseek2(seed: int = 0, layers: int = 3, groups: int = 4, kv_rank: int = 48) -> RandomModel:
    """DeepSeek-V2 in small: plain queries, softmax in groups, weights as they are, no MTP block."""
    torch.manual_seed(seed)
    config = DeepseekV2Config(
        **LATENT_SIZES | {"num_hidden_layers": layers, "kv_lora_rank": kv_rank, "norm_topk_prob": False},
        q_lora_rank=None,
        n_group=groups,
        topk_group=max(1, groups // 2),
        topk_method="group_limited_greedy" if groups > 1 else "greedy",
        n_shared_experts=2,
        routed_scaling_factor=16.0,
        rope_parameters=YARN | {"mscale": 0.707, "mscale_all_dim": 0.707},
    )
    return _latent_model(DeepseekV2ForCausalLM(config), 1, "softmax")


def _latent_model(trunk: Any, gating: int, kind: str) -> RandomModel:
    config, trunk = trunk.config, trunk.eval()
    mtp = MtpModel(trunk, 1).eval() if kind == "sigmoid" else None
    randomize(trunk, *([mtp.layers] if mtp else []))
    tensors = trunk_tensors(trunk, LATENT_NAMES)
    if mtp:
        add_mtp_block(tensors, config.num_hidden_layers, mtp, LATENT_NAMES)
    for name in [name for name in tensors if name.endswith("attn_kv_b.weight")]:
        by_head = tensors.pop(name).reshape(config.num_attention_heads, -1, config.kv_lora_rank)
        keys, values = np.split(by_head, [config.qk_nope_head_dim], axis=1)
        tensors[name.replace("attn_kv_b", "attn_k_b")] = keys.swapaxes(1, 2)
        tensors[name.replace("attn_kv_b", "attn_v_b")] = values
    rope = config.rope_parameters
    keys = {
        **keys_of(config),
        "block_count": config.num_hidden_layers + (1 if mtp else 0),
        "nextn_predict_layers": 1 if mtp else 0,
        "leading_dense_block_count": 1,
        "attention.head_count_kv": 1,
        "attention.q_lora_rank": config.q_lora_rank,
        "attention.kv_lora_rank": config.kv_lora_rank,
        "attention.key_length": config.kv_lora_rank + config.qk_rope_head_dim,
        "attention.value_length": config.kv_lora_rank,
        "attention.key_length_mla": config.qk_nope_head_dim + config.qk_rope_head_dim,
        "attention.value_length_mla": config.v_head_dim,
        "rope.dimension_count": config.qk_rope_head_dim,
        "expert_count": config.n_routed_experts,
        "expert_shared_count": config.n_shared_experts,
        "expert_gating_func": gating,
        "expert_group_count": config.n_group,
        "expert_group_used_count": config.topk_group,
        "expert_weights_scale": config.routed_scaling_factor,
        "expert_weights_norm": config.norm_topk_prob,
    }
    if rope["rope_type"] == "yarn":
        keys |= {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": rope["factor"],
            "rope.scaling.original_context_length": rope["original_max_position_embeddings"],
            "rope.scaling.yarn_log_multiplier": 0.1 * rope["mscale_all_dim"],
        }
    keys = {key: value for key, value in keys.items() if value is not None}
    return RandomModel(trunk, file_of("deepseek2", keys, tensors), mtp)
