"""Bytes that decoding one token has to read, by device, role and format."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import experts

from ..placement import HOST, Placement
from ..transformer.arch import role_of
from ..transformer.config import ModelConfig
from .memory import DeviceMemory, TensorSize, kv_bytes_per_token

CACHE, EXPERTS, MTP, EMBEDDING, HEAD = "cache", "experts", "mtp", "embedding", "head"


@dataclass(frozen=True)
class Account:
    """Sizes of a placed model, as its devices keep it.

    Attributes:
        held: bytes by (role, device, format).
        read: bytes that a token reads, by (device, role, format); the MTP block's are in `draft`.
        draft: what a pass of the MTP block reads, in the same way.
        fill: the part of it that a token needs which is only to be seen by later ones.
    """

    held: Counter[tuple[str, str, str]]
    read: Counter[tuple[str, str, str]]
    draft: Counter[tuple[str, str, str]]
    fill: Counter[tuple[str, str, str]]
    expert_layers: tuple[tuple[str, str, int], ...]  # of each layer with experts: device, format, bytes of one expert
    attention_flops: int  # of a token's queries with the keys and values that it sees, over all layers of the trunk

    def by_device(self) -> dict[str, dict[str, int]]:
        """Bytes that a token reads: {device: {role: bytes}}."""
        found: dict[str, dict[str, int]] = {}
        for (device, role, _), num_bytes in self.read.items():
            roles = found.setdefault(device, {})
            roles[role] = roles.get(role, 0) + num_bytes
        return found


def account_of(
    tensors: Mapping[str, TensorSize],
    config: ModelConfig,
    placement: Placement,
    memory: DeviceMemory | None,
    cache_type: str,
    depth: int,
) -> Account:
    """Counts a model's bytes.

    Args:
        memory: of the placement's device, None if that is the host.
        depth: cached positions that a token sees.
    """
    held, read, draft, fill = (Counter[tuple[str, str, str]]() for _ in range(4))
    layers: dict[int, tuple[str, str, int]] = {}
    tied = "output.weight" not in tensors
    for name, tensor in tensors.items():
        device, role = placement.tensors[name], role_of(name, config)
        fmt, num_bytes = _kept(tensor, device, memory)
        held[role, device, fmt] += num_bytes
        used = num_bytes * config.num_used_experts // config.num_experts if "_exps." in name else num_bytes
        if role == EXPERTS and "_exps." in name:
            block = int(name.split(".")[1])
            before = layers.get(block, (device, fmt, 0))
            layers[block] = (device, fmt, before[2] + num_bytes // config.num_experts)
        if role == MTP:
            draft[device, _part(name), fmt] += tensor.num_bytes // tensor.shape[0] if "embed_tokens" in name else used
            if name.endswith(("eh_proj.weight", "attn_k.weight", "attn_v.weight")):
                fill[device, MTP, fmt] += num_bytes
        elif role == EMBEDDING:
            read[device, role, fmt] += num_bytes // config.vocab_size
            if tied:
                read[device, HEAD, fmt] += num_bytes
        else:
            read[device, role, fmt] += used
    per_token = kv_bytes_per_token(config, cache_type)
    read[placement.device, CACHE, cache_type.upper()] += depth * per_token
    if draft:
        _add_shared_head(tensors, placement, memory, draft)
        draft[placement.device, CACHE, cache_type.upper()] += depth * per_token // config.num_layers
    flops = 4 * config.num_layers * config.num_heads * config.head_size * depth
    return Account(held, read, draft, fill, tuple(layers[block] for block in sorted(layers)), flops)


def _part(name: str) -> str:
    return EXPERTS if "_exps." in name else MTP


def _add_shared_head(
    tensors: Mapping[str, TensorSize],
    placement: Placement,
    memory: DeviceMemory | None,
    draft: Counter[tuple[str, str, str]],
) -> None:
    """A block without a head of its own reads the trunk's."""
    if any(name.endswith("nextn.shared_head_head.weight") for name in tensors):
        return
    name = "output.weight" if "output.weight" in tensors else "token_embd.weight"
    fmt, num_bytes = _kept(tensors[name], placement.tensors[name], memory)
    draft[placement.tensors[name], HEAD, fmt] += num_bytes


def _kept(tensor: TensorSize, device: str, memory: DeviceMemory | None) -> tuple[str, int]:
    """Format and bytes of a tensor where it stands."""
    if memory is None or device == HOST:
        return experts.format_of(tensor.ggml_type).name, tensor.num_bytes
    return memory.stored_format(tensor), memory.tensor_bytes(tensor)
