"""Writes Hugging Face folders for tests: a tokenizer as GLM's makers publish it, and tensors by name."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from glm_files import BLOCK_NAMES, MTP_NAMES, GlmFile
from safetensors.torch import save_file

import experts
from offload.checkpoints.gguf import open_gguf
from offload.checkpoints.stored import as_matrix

# Ours -> theirs; experts are one tensor each there, and the MTP block is a layer like others.
OUTSIDE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
BLOCK = {ours: theirs for theirs, ours in BLOCK_NAMES.items() if theirs != "mlp.experts.down_proj"}
MTP = {
    **{ours: theirs for theirs, ours in MTP_NAMES.items()},
    "nextn.shared_head_norm.weight": "shared_head.norm.weight",
    "nextn.shared_head_head.weight": "shared_head.head.weight",
    "nextn.embed_tokens.weight": "embed_tokens.weight",
}


def hf_names(name: str, values: np.ndarray) -> dict[str, np.ndarray]:
    """A GGUF tensor as the tensors that a Hugging Face folder has in its place."""
    if name in OUTSIDE:
        return {OUTSIDE[name]: values}
    _, block, rest = name.split(".", 2)
    if "_exps." in rest:
        part = rest.split("_")[1]
        prefix = f"model.layers.{block}.mlp.experts"
        return {f"{prefix}.{e}.{part}_proj.weight": matrix for e, matrix in enumerate(values)}
    return {f"model.layers.{block}.{ {**BLOCK, **MTP}[rest] }": values}


def write_tokenizer(folder: Path, tokens: list[str], types: list[int], merges: list[str], template: str | None) -> None:
    """tokenizer.json, tokenizer_config.json and chat_template.jinja from the lists of a GGUF file."""
    ordinary = {token: number for number, token in enumerate(tokens) if types[number] == 1}
    added = [
        {"id": number, "content": token, "special": types[number] == 3}
        for number, token in enumerate(tokens)
        if types[number] in (3, 4)
    ]
    model = {"type": "BPE", "vocab": ordinary, "merges": [merge.split(" ") for merge in merges], "ignore_merges": True}
    (folder / "tokenizer.json").write_text(json.dumps({"added_tokens": added, "model": model}), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>"}), encoding="utf-8")
    if template is not None:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")


def write_tensors(folder: Path, tensors: Mapping[str, torch.Tensor], num_files: int) -> None:
    """Files with an index, tensors dealt out in turn, so that experts of one layer are spread over them."""
    if num_files == 1:
        save_file(dict(tensors), folder / "model.safetensors")
        return
    weight_map = {}
    for number in range(num_files):
        name = f"model-{number + 1:05}-of-{num_files:05}.safetensors"
        part = dict(list(tensors.items())[number::num_files])
        save_file(part, folder / name)
        weight_map.update(dict.fromkeys(part, name))
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def hf_config(metadata: Mapping[str, Any], tokens: list[str], **changes: Any) -> dict[str, Any]:
    """config.json of the model that a GGUF file describes."""
    key = {name.removeprefix("glm4moe."): value for name, value in metadata.items()}
    config = {
        "architectures": ["Glm4MoeForCausalLM"],
        "vocab_size": len(tokens),
        "hidden_size": key["embedding_length"],
        "intermediate_size": key["feed_forward_length"],
        "moe_intermediate_size": key["expert_feed_forward_length"],
        "num_hidden_layers": key["block_count"] - key["nextn_predict_layers"],
        "num_nextn_predict_layers": key["nextn_predict_layers"],
        "num_attention_heads": key["attention.head_count"],
        "num_key_value_heads": key["attention.head_count_kv"],
        "head_dim": key["attention.key_length"],
        "rms_norm_eps": key["attention.layer_norm_rms_epsilon"],
        "rope_theta": key["rope.freq_base"],
        "partial_rotary_factor": key["rope.dimension_count"] / key["attention.key_length"],
        "n_routed_experts": key["expert_count"],
        "num_experts_per_tok": key["expert_used_count"],
        "n_shared_experts": key["expert_shared_count"],
        "first_k_dense_replace": key["leading_dense_block_count"],
        "routed_scaling_factor": key["expert_weights_scale"],
        "norm_topk_prob": key["expert_weights_norm"],
        "max_position_embeddings": key["context_length"],
        "n_group": 1,
        "topk_group": 1,
        "eos_token_id": [tokens.index("<|endoftext|>")],
    }
    return {**config, **changes}


def write_folder(
    folder: Path, file: GlmFile, dtype: torch.dtype = torch.float32, num_files: int = 3, **changes: Any
) -> Path:
    """The folder of the model that a GGUF file describes."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(hf_config(file.metadata, file.tokens, **changes)), encoding="utf-8")
    write_tokenizer(folder, file.tokens, file.token_types, ["t h", "i n"], file.template)
    named = {theirs: v for name, values in file.tensors.items() for theirs, v in hf_names(name, values).items()}
    tensors = {name: torch.tensor(np.ascontiguousarray(values)).to(dtype) for name, values in named.items()}
    write_tensors(folder, tensors, num_files)
    return folder


def published_folder(folder: Path, glm: Any) -> Path:
    """What transformers writes for the trunk, with GLM's tokenizer."""
    glm.trunk.save_pretrained(folder, max_shard_size="100KB")
    write_tokenizer(folder, glm.file.tokens, glm.file.token_types, ["t h", "i n"], glm.file.template)
    return folder


Tensors = dict[str, torch.Tensor]


def decoded_folder(folder: Path, path: Path, stored: Callable[[str, torch.Tensor], Tensors] | None = None) -> Path:
    """The folder of a GGUF file's model, all weights decoded.

    Args:
        stored: the tensors that stand for a name and its float32 values; by default just these.
    """
    checkpoint = open_gguf(path)
    metadata, tokens = checkpoint.metadata, checkpoint.metadata["tokenizer.ggml.tokens"]
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(hf_config(metadata, tokens)), encoding="utf-8")
    types, merges = metadata["tokenizer.ggml.token_type"].tolist(), metadata["tokenizer.ggml.merges"]
    write_tokenizer(folder, tokens, types, merges, metadata["tokenizer.chat_template"])
    tensors: Tensors = {}
    for name, tensor in checkpoint.tensors.items():
        values = experts.dequantize(as_matrix(tensor)).reshape(tensor.shape)
        for theirs, part in hf_names(name, values).items():
            part = torch.from_numpy(part.copy())
            tensors |= stored(theirs, part) if stored else {theirs: part}
    write_tensors(folder, tensors, 3)
    return folder
