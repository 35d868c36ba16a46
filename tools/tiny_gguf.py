"""Write a trained tiny GLM as a GGUF file of architecture glm4moe, quantized by a table of tensor names.

Names and keys are those that llama.cpp's converter writes for GLM-4.5 to 4.7. `python -m tools.tiny_gguf CHECKPOINT
TOKENIZER OUT [--float32]` exports a checkpoint; training calls `write_gguf` itself.
"""

import argparse
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.constants import ExpertGatingFuncType, TokenType
from numpy.typing import NDArray
from tokenizers import Tokenizer

from offload.quantize import quantize
from tools.tiny_model import Attention, Block, Experts, SwiGLU, TinyConfig, TinyGlm
from tools.tiny_tokenizer import CHAT_TEMPLATE, CONTROL, USER_DEFINED

Tensors = Iterator[tuple[str, torch.Tensor]]

# The first pattern that matches a name decides; several formats on purpose, so that one file exercises them.
FORMATS = (
    (r"norm|bias|ffn_gate_inp", "F32"),
    (r"blk\.1\.ffn_down_exps", "Q6_K"),
    (r"blk\.5\.ffn_down_exps", "Q6_K"),
    (r"ffn_down_exps|blk\.5\.ffn_up_exps", "Q5_K"),
    (r"ffn_(gate|up)_exps", "Q4_K"),
    (r"attn_[qv]\.|shexp", "Q6_K"),
    (r"", "Q8_0"),
)


def _ffn(prefix: str, ffn: SwiGLU | Experts, suffix: str = "") -> Tensors:
    if isinstance(ffn, SwiGLU):
        gate_up, down = ffn.gate_up.weight, ffn.down.weight
    else:
        gate_up, down, suffix = ffn.gate_up, ffn.down, "_exps"
        yield prefix + "ffn_gate_inp.weight", ffn.router.weight
        yield prefix + "exp_probs_b.bias", ffn.bias
        yield from _ffn(prefix, ffn.shared, "_shexp")
    gate, up = gate_up.chunk(2, dim=-2)
    for name, weight in (("gate", gate), ("up", up), ("down", down)):
        yield f"{prefix}ffn_{name}{suffix}.weight", weight


def _block(prefix: str, block: Block) -> Tensors:
    attention: Attention = block.attn
    yield prefix + "attn_norm.weight", block.attn_norm.weight
    for name, linear in (("q", attention.q), ("k", attention.k), ("v", attention.v)):
        yield f"{prefix}attn_{name}.weight", linear.weight
        yield f"{prefix}attn_{name}.bias", linear.bias
    yield prefix + "attn_output.weight", attention.output.weight
    yield prefix + "attn_q_norm.weight", attention.q_norm.weight
    yield prefix + "attn_k_norm.weight", attention.k_norm.weight
    yield prefix + "post_attention_norm.weight", block.ffn_norm.weight
    yield from _ffn(prefix, block.ffn)


def named_tensors(model: TinyGlm) -> Tensors:
    """Every tensor of the file with its GGUF name."""
    yield "token_embd.weight", model.embedding.weight
    yield "output_norm.weight", model.output_norm.weight
    yield "output.weight", model.head.weight
    blocks = [block for block in model.blocks if isinstance(block, Block)]
    for i, block in enumerate([*blocks, model.mtp.block]):
        yield from _block(f"blk.{i}.", block)
    prefix = f"blk.{len(blocks)}.nextn."
    yield prefix + "eh_proj.weight", model.mtp.eh_proj.weight
    for name in ("enorm", "hnorm", "shared_head_norm"):
        yield f"{prefix}{name}.weight", getattr(model.mtp, name).weight


def format_of(name: str) -> str:
    return next(form for pattern, form in FORMATS if re.search(pattern, name))


def encoded(weight: NDArray[np.float32], form: str) -> NDArray[Any]:
    """The weight as stored: float32, or bytes with the encoded rows as the last dimension."""
    if form == "F32":
        return weight
    return quantize(weight.reshape(-1, weight.shape[-1]), form).reshape(*weight.shape[:-1], -1)


def _add_sizes(writer: GGUFWriter, config: TinyConfig) -> None:
    writer.add_name("tiny-glm")
    writer.add_block_count(config.num_layers + 1)
    writer.add_context_length(config.context)
    writer.add_embedding_length(config.hidden)
    writer.add_feed_forward_length(config.dense_ffn)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_rope_freq_base(config.rope_base)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_key_length(config.head_size)
    writer.add_value_length(config.head_size)
    writer.add_rope_dimension_count(config.rope_dims)
    writer.add_expert_count(config.num_experts)
    writer.add_expert_used_count(config.num_used)
    writer.add_expert_group_count(1)
    writer.add_expert_group_used_count(1)
    writer.add_expert_feed_forward_length(config.expert_ffn)
    writer.add_expert_shared_count(1)
    writer.add_leading_dense_block_count(config.num_dense)
    writer.add_expert_gating_func(ExpertGatingFuncType.SIGMOID)
    writer.add_expert_weights_scale(config.routed_scale)
    writer.add_expert_weights_norm(True)
    writer.add_nextn_predict_layers(1)
    writer.add_file_type(15)  # "mostly Q4_K, medium"
    writer.add_quantization_version(2)


def _add_tokenizer(writer: GGUFWriter, tokenizer: Tokenizer) -> None:
    def kind(token: str) -> TokenType:
        return TokenType.CONTROL if token in CONTROL else TokenType.USER_DEFINED

    vocabulary = [token for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])]
    special = {*CONTROL, *USER_DEFINED}
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    end = tokenizer.token_to_id("<|endoftext|>")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("glm4")
    writer.add_token_list(vocabulary)
    writer.add_token_types([kind(t) if t in special else TokenType.NORMAL for t in vocabulary])
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    writer.add_eos_token_id(end)
    writer.add_pad_token_id(end)
    writer.add_unk_token_id(end)
    writer.add_bos_token_id(tokenizer.token_to_id("[gMASK]"))
    writer.add_eot_token_id(tokenizer.token_to_id("<|user|>"))
    writer.add_eom_token_id(tokenizer.token_to_id("<|observation|>"))
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def write_gguf(model: TinyGlm, tokenizer: Tokenizer, out: Path, float32: bool = False) -> None:
    """Write the file under a temporary name, then put it in place: others may have the old one mapped."""
    partial = out.with_name(out.name + ".partial")
    writer = GGUFWriter(partial, "glm4moe")
    _add_sizes(writer, model.config)
    _add_tokenizer(writer, tokenizer)
    for name, tensor in named_tensors(model):
        form = "F32" if float32 else format_of(name)
        data = encoded(tensor.detach().float().numpy(), form)
        writer.add_tensor(name, np.ascontiguousarray(data), raw_dtype=GGMLQuantizationType[form])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.replace(partial, out)


def load_checkpoint(path: Path) -> tuple[TinyGlm, int]:
    """The model of a training checkpoint and the number of steps done."""
    checkpoint = torch.load(path, weights_only=True)
    model = TinyGlm(TinyConfig(**checkpoint["config"]))
    model.load_state_dict(checkpoint["model"])
    return model.eval(), int(checkpoint["step"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--float32", action="store_true", help="do not quantize")
    arguments = parser.parse_args()
    model, step = load_checkpoint(arguments.checkpoint)
    write_gguf(model, Tokenizer.from_file(str(arguments.tokenizer)), arguments.out, arguments.float32)
    print(f"{arguments.out}: {arguments.out.stat().st_size} bytes, step {step}")


if __name__ == "__main__":
    main()
