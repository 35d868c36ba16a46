"""GGUF files of deepseek2 as llama.cpp wrote them before April 2025, in today's terms.

Then `attn_kv_b` held keys and values in one matrix, and the sizes of heads were those of expanded keys and values.
Today a head's keys are the compressed rows with the rotated dimensions, and the expanded sizes have keys of their own.
"""

from dataclasses import replace

from .checkpoint import Checkpoint
from .latent_split import JOINED, split

ATTENTION = "deepseek2.attention."


def split_latent(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint itself, or where it is such an old one, the same model with keys and values apart.

    Raises:
        CheckpointError: sizes are missing, or contradict the tensors.
    """
    joined = [tensor for name, tensor in checkpoint.tensors.items() if name.endswith(JOINED)]
    is_old = joined and ATTENTION + "key_length_mla" not in checkpoint.metadata
    if not is_old or checkpoint.metadata.get("general.architecture") != "deepseek2":
        return checkpoint
    sizes = ("head_count", "kv_lora_rank", "key_length", "value_length")
    num_heads, rank, key_size, value_size = (checkpoint.get(ATTENTION + size, int) for size in sizes)
    rotated = checkpoint.get("deepseek2.rope.dimension_count", int)
    tensors = dict(checkpoint.tensors)
    for tensor in joined:
        del tensors[tensor.name]
        tensors |= {part.name: part for part in split(tensor, num_heads, key_size - rotated)}
    today = {
        "head_count_kv": 1,
        "key_length": rank + rotated,
        "value_length": rank,
        "key_length_mla": key_size,
        "value_length_mla": value_size,
    }
    metadata = {**checkpoint.metadata, **{ATTENTION + key: value for key, value in today.items()}}
    return replace(checkpoint, metadata=metadata, tensors=tensors)
