"""Makes small random GLM models: as transformers modules (the oracle), and as GGUF files with the same weights."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers import Glm4MoeConfig, Glm4MoeForCausalLM
from transformers.modeling_layers import MtpModel

SPECIAL = ["<|endoftext|>", "[gMASK]", "<sop>", "<|user|>", "<|assistant|>", "<|observation|>"]
MERGED = ["th", "in"]
VOCAB_SIZE = 256 + len(MERGED) + len(SPECIAL)
END = 256 + len(MERGED)  # <|endoftext|>

# What the random models have in common, in transformers' words.
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "attn_implementation": "eager",
}
EXPERTS: dict[str, Any] = {"moe_intermediate_size": 32, "num_experts_per_tok": 3, "norm_topk_prob": True}
ROPE: dict[str, Any] = {"rope_type": "default", "rope_theta": 10000.0}

BLOCK_NAMES = {
    "input_layernorm.weight": "attn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.q_proj.bias": "attn_q.bias",
    "self_attn.k_proj.bias": "attn_k.bias",
    "self_attn.v_proj.bias": "attn_v.bias",
    "self_attn.o_proj.weight": "attn_output.weight",
    "self_attn.q_norm.weight": "attn_q_norm.weight",
    "self_attn.k_norm.weight": "attn_k_norm.weight",
    "post_attention_layernorm.weight": "post_attention_norm.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
    "mlp.gate.weight": "ffn_gate_inp.weight",
    "mlp.gate.e_score_correction_bias": "exp_probs_b.bias",
    "mlp.experts.down_proj": "ffn_down_exps.weight",
    "mlp.shared_experts.gate_proj.weight": "ffn_gate_shexp.weight",
    "mlp.shared_experts.up_proj.weight": "ffn_up_shexp.weight",
    "mlp.shared_experts.down_proj.weight": "ffn_down_shexp.weight",
}
MTP_NAMES = {
    "enorm.weight": "nextn.enorm.weight",
    "hnorm.weight": "nextn.hnorm.weight",
    "eh_proj.weight": "nextn.eh_proj.weight",
    "post_norm.weight": "nextn.shared_head_norm.weight",
}


@dataclass
class GlmFile:
    """What goes into a GGUF file; tests change it before it is written."""

    metadata: dict[str, Any]
    tensors: dict[str, np.ndarray]
    tokens: list[str]
    token_types: list[int]
    template: str | None = "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% endfor %}<|assistant|>\n"
    extra: dict[str, Any] = field(default_factory=dict)
    encoded: dict[str, tuple[np.ndarray, gguf.GGMLQuantizationType]] = field(default_factory=dict)  # rows of bytes

    def write(self, path: Path, split_max_tensors: int = 0) -> Path:
        writer = gguf.GGUFWriter(path, self.metadata["general.architecture"], split_max_tensors=split_max_tensors)
        for key, value in self.metadata.items():
            if isinstance(value, bool):
                writer.add_bool(key, value)
            elif isinstance(value, int):
                writer.add_uint32(key, value)
            elif isinstance(value, float):
                writer.add_float32(key, value)
            elif key != "general.architecture":
                writer.add_string(key, value)
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("glm4")
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.token_types)
        writer.add_token_merges(["t h", "i n"])
        writer.add_eos_token_id(END)
        if self.template is not None:
            writer.add_chat_template(self.template)
        for name, values in self.tensors.items():
            writer.add_tensor(name, np.ascontiguousarray(values, np.float32))
        for name, (rows, kind) in self.encoded.items():
            writer.add_tensor(name, rows, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path


@dataclass
class RandomGlm:
    trunk: Glm4MoeForCausalLM
    mtp: MtpModel
    file: GlmFile


def random_glm(qk_norm: bool = True, seed: int = 0, layers: int = 3) -> RandomGlm:
    """A model whose every weight, norm and bias is random and matters."""
    torch.manual_seed(seed)
    config = Glm4MoeConfig(
        **SIZES,
        **EXPERTS,
        num_hidden_layers=layers,
        n_routed_experts=8,
        n_shared_experts=1,
        first_k_dense_replace=1,
        use_qk_norm=qk_norm,
        attention_bias=True,
        routed_scaling_factor=2.5,
        rope_parameters=ROPE | {"partial_rotary_factor": 0.5},
    )
    config.num_mtp_layers = 1
    trunk = Glm4MoeForCausalLM(config).eval()
    mtp = MtpModel(trunk, 1).eval()
    randomize(trunk, mtp.layers)
    return RandomGlm(trunk, mtp, _as_file(config, trunk, mtp))


def randomize(*modules: torch.nn.Module) -> None:
    """Every weight, norm and bias, so that each matters."""
    with torch.no_grad():
        for module in modules:
            for name, values in [*module.named_parameters(), *module.named_buffers()]:
                if "norm" in name:
                    values.copy_(1 + 0.2 * torch.randn_like(values))
                elif name.endswith("bias"):
                    values.copy_(0.2 * torch.randn_like(values))
                elif "inv_freq" not in name:
                    values.copy_(torch.randn_like(values) * values.shape[-1] ** -0.5)


def _as_file(config: Glm4MoeConfig, trunk: Glm4MoeForCausalLM, mtp: MtpModel) -> GlmFile:
    tensors = trunk_tensors(trunk)
    add_mtp_block(tensors, config.num_hidden_layers, mtp)
    keys = {
        **keys_of(config),
        "block_count": config.num_hidden_layers + 1,
        "nextn_predict_layers": 1,
        "rope.dimension_count": config.head_dim // 2,
        "expert_count": config.n_routed_experts,
        "expert_shared_count": config.n_shared_experts,
        "leading_dense_block_count": config.first_k_dense_replace,
        "expert_gating_func": 2,
        "expert_weights_scale": config.routed_scaling_factor,
        "expert_weights_norm": True,
    }
    return file_of("glm4moe", keys, tensors)


def keys_of(config: Any) -> dict[str, Any]:
    """Sizes that every architecture has, of its trunk, under GGUF's keys without the prefix."""
    keys = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.freq_base": config.rope_parameters["rope_theta"],
    }
    if hasattr(config, "moe_intermediate_size"):
        keys["expert_used_count"] = config.num_experts_per_tok
        keys["expert_feed_forward_length"] = config.moe_intermediate_size
    return keys


def file_of(architecture: str, keys: dict[str, Any], tensors: dict[str, np.ndarray]) -> GlmFile:
    """Metadata under the architecture's prefix, and the vocabulary that all models here share."""
    metadata = {"general.architecture": architecture, **{f"{architecture}.{k}": value for k, value in keys.items()}}
    tokens = [*_byte_tokens(), *MERGED, *SPECIAL]
    return GlmFile(metadata, tensors, tokens, [1] * END + [3] * len(SPECIAL))


def trunk_tensors(trunk: Any, names: dict[str, str] = BLOCK_NAMES) -> dict[str, np.ndarray]:
    """All of a model but its MTP block, under llama.cpp's names."""
    state = trunk.state_dict()
    tensors = {
        "token_embd.weight": state["model.embed_tokens.weight"].numpy(),
        "output_norm.weight": state["model.norm.weight"].numpy(),
        "output.weight": state["lm_head.weight"].numpy(),
    }
    for layer in range(trunk.config.num_hidden_layers):
        _add_block(tensors, layer, state, f"model.layers.{layer}.", names)
    return tensors


def add_mtp_block(
    tensors: dict[str, np.ndarray], block: int, mtp: MtpModel, names: dict[str, str] = BLOCK_NAMES
) -> None:
    state = mtp.state_dict()
    _add_block(tensors, block, state, "layers.0.mtp_block.", names)
    for theirs, ours in MTP_NAMES.items():
        tensors[f"blk.{block}.{ours}"] = state[f"layers.0.{theirs}"].numpy()


def _add_block(
    tensors: dict[str, np.ndarray], block: int, state: dict[str, torch.Tensor], prefix: str, names: dict[str, str]
) -> None:
    for theirs, ours in names.items():
        if prefix + theirs in state:
            tensors[f"blk.{block}.{ours}"] = state[prefix + theirs].numpy()
    fused = state.get(prefix + "mlp.experts.gate_up_proj")
    if fused is not None:
        gate, up = fused.chunk(2, dim=1)
        tensors[f"blk.{block}.ffn_gate_exps.weight"] = gate.numpy()
        tensors[f"blk.{block}.ffn_up_exps.weight"] = up.numpy()


def _byte_tokens() -> list[str]:
    """The printable characters that stand for the 256 bytes in a byte-level vocabulary."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    stand_ins = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(stand_ins)) for byte in range(256)]
