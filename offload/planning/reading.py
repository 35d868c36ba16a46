"""Bytes that decoding one token has to read, by device, role and format."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import experts

from ..backends.memory import DeviceMemory, TensorSize, kv_bytes_per_token
from ..placement import HOST, Placement
from ..transformer.arch import role_of
from ..transformer.config import ModelConfig

CACHE, EXPERTS, MTP, EMBEDDING, HEAD = "cache", "experts", "mtp", "embedding", "head"


class Kind(NamedTuple):
    """What a step reads alike: where, for what, in which format, in rows of how many weights."""

    device: str
    role: str
    format: str
    columns: int


@dataclass(frozen=True)
class Account:
    """Sizes of a placed model, as its devices keep it.

    Attributes:
        held: bytes by (role, device, format).
        read: bytes that a token reads, by kind; the MTP block's are in `draft`.
        draft: what a pass of the MTP block reads, in the same way.
        fill: the part of it that a token needs which is only to be seen by later ones.
        last: of the trunk's last layer what only rows meet whose scores are asked for: all but its experts (which those
            rows choose) and the projections to keys and values.
        expert_layers: of each layer with experts the bytes of one expert.
    """

    held: Counter[tuple[str, str, str]]
    read: Counter[Kind]
    draft: Counter[Kind]
    fill: Counter[Kind]
    last: Counter[Kind]
    expert_layers: tuple[Counter[Kind], ...]
    attention_flops: int  # of a token's queries with the keys and values that it sees, over all layers of the trunk

    def by_device(self) -> dict[str, dict[str, int]]:
        """Bytes that a token reads: {device: {role: bytes}}."""
        found: dict[str, dict[str, int]] = {}
        for kind, num_bytes in self.read.items():
            roles = found.setdefault(kind.device, {})
            roles[kind.role] = roles.get(kind.role, 0) + num_bytes
        return found

    @property
    def hosted(self) -> int:
        """Layers whose experts stand on the host."""
        return sum(any(kind.device == HOST for kind in layer) for layer in self.expert_layers)


def account_of(
    tensors: Mapping[str, TensorSize],
    config: ModelConfig,
    placement: Placement,
    memory: DeviceMemory | None,
    cache_type: str,
    depth: int,
    added_bytes: Mapping[str, int] = MappingProxyType({}),
) -> Account:
    """Counts a model's bytes.

    Args:
        memory: of the placement's device, None if that is the host.
        depth: cached positions that a token sees.
        added_bytes: what tensors take beyond the file's bytes that the host keeps expanded, by name.
    """
    held = Counter[tuple[str, str, str]]()
    read, draft, fill, last = (Counter[Kind]() for _ in range(4))
    layers: dict[int, Counter[Kind]] = {}
    tied = "output.weight" not in tensors
    for name, tensor in tensors.items():
        device, role = placement.tensors[name], role_of(name, config)
        fmt, num_bytes = _kept(tensor, device, memory, added_bytes)
        kind = Kind(device, role, fmt, tensor.shape[-1])
        held[role, device, fmt] += num_bytes
        used = num_bytes * config.num_used_experts // config.num_experts if "_exps." in name else num_bytes
        if role == EXPERTS and "_exps." in name:
            layers.setdefault(int(name.split(".")[1]), Counter())[kind] += num_bytes // config.num_experts
        if role == MTP:
            part = kind._replace(role=EXPERTS if "_exps." in name else MTP)
            draft[part] += tensor.num_bytes // tensor.shape[0] if "embed_tokens" in name else used
            if name.endswith(("eh_proj.weight", "attn_k.weight", "attn_v.weight")):
                fill[kind] += num_bytes
        elif role == EMBEDDING:
            read[kind] += num_bytes // config.vocab_size
            if tied:
                read[kind._replace(role=HEAD)] += num_bytes
        else:
            read[kind] += used
            suffix = name.removeprefix(f"blk.{config.num_layers - 1}.")
            if suffix != name and "_exps." not in name and not suffix.startswith(("attn_k", "attn_v")):
                last[kind] += used
    per_token = kv_bytes_per_token(config, cache_type)
    cache = Kind(placement.device, CACHE, cache_type.upper(), config.head_size)
    read[cache] += depth * per_token
    if draft:
        _add_shared_head(tensors, placement, memory, draft, added_bytes)
        draft[cache] += depth * per_token // config.num_layers
    flops = 4 * config.num_layers * config.num_heads * config.head_size * depth
    return Account(held, read, draft, fill, last, tuple(layers[block] for block in sorted(layers)), flops)


def _add_shared_head(
    tensors: Mapping[str, TensorSize],
    placement: Placement,
    memory: DeviceMemory | None,
    draft: Counter[Kind],
    added_bytes: Mapping[str, int],
) -> None:
    """A block without a head of its own reads the trunk's."""
    if any(name.endswith("nextn.shared_head_head.weight") for name in tensors):
        return
    name = "output.weight" if "output.weight" in tensors else "token_embd.weight"
    fmt, num_bytes = _kept(tensors[name], placement.tensors[name], memory, added_bytes)
    draft[Kind(placement.tensors[name], HEAD, fmt, tensors[name].shape[-1])] += num_bytes


def _kept(
    tensor: TensorSize, device: str, memory: DeviceMemory | None, added_bytes: Mapping[str, int]
) -> tuple[str, int]:
    """Format and bytes of a tensor where it stands."""
    if memory is not None and device != HOST:
        return memory.stored_format(tensor), memory.tensor_bytes(tensor)
    fmt, added = experts.format_of(tensor.ggml_type), added_bytes.get(tensor.name)
    if added is None:
        return fmt.name, tensor.num_bytes
    wide = experts.expanded_format(fmt, tensor.shape[-2])
    assert wide is not None
    return wide.name, tensor.num_bytes + added
