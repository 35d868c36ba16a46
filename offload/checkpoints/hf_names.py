"""Hugging Face's architectures as tables: their keys and tensor names in GGUF's words.

A stack of experts stands in GGUF under one name, in a Hugging Face folder under a name for each expert.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .latent_split import JOINED


@dataclass(frozen=True)
class HfArchitecture:
    """One entry of config.json's `architectures`.

    Attributes:
        name: of the architecture in GGUF.
        pre: of the pre-tokenizer in GGUF.
        keys: of config.json -> keys in GGUF, without the architecture's prefix.
        fixed: keys in GGUF that config.json does not hold, with their values.
        rotated_share: of a head's dimensions, where config.json does not say.
        outside, block, mtp: names -> names in GGUF; those of a block without its prefix.
        special: which texts are the tokens of these roles, where the folder does not say.
        is_latent: attention with compressed keys and values (MLA).
        required: keys of config.json, and the only values of theirs that can be run.
    """

    name: str
    pre: str
    keys: Mapping[str, tuple[str, ...]]
    fixed: Mapping[str, Any]
    rotated_share: float
    outside: Mapping[str, str]
    block: Mapping[str, str]
    mtp: Mapping[str, str]
    special: Mapping[str, str] = field(default_factory=dict)
    is_latent: bool = False
    required: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)


# A block's tensor, "model.layers.N.NAME"; one expert's matrix among them.
BLOCK = re.compile(r"model\.layers\.(\d{1,6})\.(.+)")
EXPERT = re.compile(r"mlp\.experts\.(\d{1,6})\.(gate|up|down)_proj\.weight")
IGNORED = re.compile(r".*\.(rotary_emb\.inv_freq|input_scale|k_scale|v_scale)")

_SIZES = {
    "max_position_embeddings": ("context_length",),
    "hidden_size": ("embedding_length",),
    "intermediate_size": ("feed_forward_length",),
    "num_attention_heads": ("attention.head_count",),
    "num_key_value_heads": ("attention.head_count_kv",),
    "head_dim": ("attention.key_length", "attention.value_length"),
    "rms_norm_eps": ("attention.layer_norm_rms_epsilon",),
    "num_experts_per_tok": ("expert_used_count",),
    "moe_intermediate_size": ("expert_feed_forward_length",),
}
_GROUPED_ROUTING = {
    "n_routed_experts": ("expert_count",),
    "n_shared_experts": ("expert_shared_count",),
    "first_k_dense_replace": ("leading_dense_block_count",),
    "routed_scaling_factor": ("expert_weights_scale",),
    "norm_topk_prob": ("expert_weights_norm",),
    "n_group": ("expert_group_count",),
    "topk_group": ("expert_group_used_count",),
}
_LATENT_SIZES = {
    **{key: names for key, names in _SIZES.items() if key not in ("head_dim", "num_key_value_heads")},
    **_GROUPED_ROUTING,
    "q_lora_rank": ("attention.q_lora_rank",),
    "kv_lora_rank": ("attention.kv_lora_rank", "attention.value_length"),
    "v_head_dim": ("attention.value_length_mla",),
    "qk_rope_head_dim": ("rope.dimension_count",),
}
_OUTSIDE = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_ATTENTION = {
    "input_layernorm.weight": "attn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.q_proj.bias": "attn_q.bias",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.k_proj.bias": "attn_k.bias",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.v_proj.bias": "attn_v.bias",
    "self_attn.o_proj.weight": "attn_output.weight",
    "self_attn.q_norm.weight": "attn_q_norm.weight",
    "self_attn.k_norm.weight": "attn_k_norm.weight",
}
_LATENT_ATTENTION = {
    "input_layernorm.weight": "attn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.q_a_proj.weight": "attn_q_a.weight",
    "self_attn.q_a_layernorm.weight": "attn_q_a_norm.weight",
    "self_attn.q_b_proj.weight": "attn_q_b.weight",
    "self_attn.kv_a_proj_with_mqa.weight": "attn_kv_a_mqa.weight",
    "self_attn.kv_a_layernorm.weight": "attn_kv_a_norm.weight",
    "self_attn.kv_b_proj.weight": JOINED,
    "self_attn.o_proj.weight": "attn_output.weight",
}
_FFN = {
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
    "mlp.gate.weight": "ffn_gate_inp.weight",
    "mlp.gate.e_score_correction_bias": "exp_probs_b.bias",
    "mlp.shared_experts.gate_proj.weight": "ffn_gate_shexp.weight",
    "mlp.shared_experts.up_proj.weight": "ffn_up_shexp.weight",
    "mlp.shared_experts.down_proj.weight": "ffn_down_shexp.weight",
}
_MTP = {
    "eh_proj.weight": "nextn.eh_proj.weight",
    "enorm.weight": "nextn.enorm.weight",
    "hnorm.weight": "nextn.hnorm.weight",
    "shared_head.norm.weight": "nextn.shared_head_norm.weight",
    "shared_head.head.weight": "nextn.shared_head_head.weight",
    "embed_tokens.weight": "nextn.embed_tokens.weight",
}

_GLM_TOKENS = {"bos": "[gMASK]", "eos": "<|endoftext|>", "eot": "<|user|>", "eom": "<|observation|>"}


def _latent(
    pre: str,
    gating: int,
    special: Mapping[str, str] | None = None,
    required: Mapping[str, tuple[Any, ...]] | None = None,
) -> HfArchitecture:
    """DeepSeek's architecture, which others share."""
    return HfArchitecture(
        name="deepseek2",
        pre=pre,
        keys=_LATENT_SIZES,
        fixed={"attention.head_count_kv": 1, "expert_gating_func": gating},
        rotated_share=1.0,
        outside=_OUTSIDE,
        block={**_LATENT_ATTENTION, "post_attention_layernorm.weight": "ffn_norm.weight", **_FFN},
        mtp=_MTP,
        special=special or {},
        is_latent=True,
        required={"moe_layer_freq": (1, None), **(required or {})},
    )


HF_ARCHITECTURES = {
    "DeepseekV2ForCausalLM": _latent("deepseek-llm", gating=1, required={"scoring_func": ("softmax", None)}),
    "DeepseekV3ForCausalLM": _latent("deepseek-v3", gating=2),
    "Glm4MoeLiteForCausalLM": _latent("glm4", gating=2, special=_GLM_TOKENS),
    "Glm4MoeForCausalLM": HfArchitecture(
        name="glm4moe",
        pre="glm4",
        keys={**_SIZES, **_GROUPED_ROUTING},
        fixed={"expert_gating_func": 2},
        rotated_share=0.5,
        outside=_OUTSIDE,
        block={**_ATTENTION, "post_attention_layernorm.weight": "post_attention_norm.weight", **_FFN},
        mtp=_MTP,
        special=_GLM_TOKENS,
    ),
    "Qwen3MoeForCausalLM": HfArchitecture(
        name="qwen3moe",
        pre="qwen2",
        keys={
            **_SIZES,
            "num_experts": ("expert_count",),
            "num_local_experts": ("expert_count",),  # how later versions of transformers call them
            "norm_topk_prob": ("expert_weights_norm",),
        },
        fixed={},
        rotated_share=1.0,
        outside=_OUTSIDE,
        block={**_ATTENTION, "post_attention_layernorm.weight": "ffn_norm.weight", **_FFN},
        mtp={},
        required={"mlp_only_layers": ([], None), "decoder_sparse_step": (1, None), "use_sliding_window": (False, None)},
    ),
}
