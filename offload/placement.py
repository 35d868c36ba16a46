"""Which device holds which tensor and which cache: plain data, made before anything is loaded, and checked.

The rule that no plan may break: all that the MTP block uses stands on one device. Its own tensors, the embedding and
the head that it shares with the trunk, the norm that its input comes from, and its cache.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from .errors import PlacementError
from .transformer.arch import role_of
from .transformer.config import ModelConfig

HOST = "cpu"
NO_RULES: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Placement:
    device: str  # where the trunk runs
    tensors: Mapping[str, str]  # tensor name -> the device that holds it
    caches: Mapping[int, str]  # block -> the device that holds its keys and values

    def has_mtp(self, config: ModelConfig) -> bool:
        return config.num_layers in self.caches


def default_placement(
    names: Collection[str],
    config: ModelConfig,
    device: str,
    mtp_device: str | None = None,
    expert_layers: Collection[int] = (),
    by_rule: Mapping[str, str] = NO_RULES,
) -> Placement:
    """Everything on the device but the trunk's routed experts, which stay on the host.

    Args:
        expert_layers: layers whose experts stand on the device too.
        by_rule: tensors that a rule has placed.
    """
    by_role = {"experts": HOST, "mtp": mtp_device or device}
    tensors = {name: by_role.get(role_of(name, config), device) for name in names}
    for block in expert_layers:
        tensors |= {name: device for name in names if name.startswith(f"blk.{block}.ffn_") and "_exps." in name}
    tensors |= by_rule
    caches = dict.fromkeys(range(config.num_layers), device)
    if any(role_of(name, config) == "mtp" for name in names):
        caches[config.num_layers] = by_role["mtp"]
    return Placement(device, tensors, caches)


def check_placement(placement: Placement, config: ModelConfig) -> None:
    """Refuses a placement that cannot run, or that would make MTP tensors cross.

    Raises:
        PlacementError: the tensor or cache, and where it must stand.
    """
    if placement.has_mtp(config):
        _check_mtp(placement, config)
    for name, device in placement.tensors.items():
        role = role_of(name, config)
        if role == "experts" and device not in (HOST, placement.device):
            raise PlacementError(
                f"tensor {name} is placed on {device}; routed experts stand on {HOST} or on {placement.device}"
            )
        if role not in ("experts", "mtp") and device != placement.device:
            raise PlacementError(
                f"tensor {name} is placed on {device}, but the trunk runs on {placement.device}: "
                "only routed experts (ffn_*_exps) can stand elsewhere; take it out of the rule"
            )
    for block in range(config.num_layers):
        _check_same_device(placement, [f"blk.{block}.ffn_{part}_exps.weight" for part in ("gate", "up", "down")])
        if placement.caches[block] != placement.device:
            raise PlacementError(
                f"the cache of block {block} is placed on {placement.caches[block]}, but the trunk runs on "
                f"{placement.device}: place it there"
            )


def mtp_uses(names: Collection[str], config: ModelConfig) -> Iterator[str]:
    """Names of all tensors that drafting reads, the trunk's own among them."""
    block = f"blk.{config.num_layers}."
    yield from (name for name in names if name.startswith(block))
    yield "output_norm.weight"  # gives the states that the block starts from
    if f"{block}nextn.embed_tokens.weight" not in names:
        yield "token_embd.weight"
    if f"{block}nextn.shared_head_head.weight" not in names:
        yield "output.weight" if "output.weight" in names else "token_embd.weight"


def _check_mtp(placement: Placement, config: ModelConfig) -> None:
    home = placement.tensors[f"blk.{config.num_layers}.nextn.eh_proj.weight"]
    stands = {f"tensor {name}": placement.tensors[name] for name in mtp_uses(placement.tensors, config)}
    stands[f"the cache of block {config.num_layers}"] = placement.caches[config.num_layers]
    for what, device in stands.items():
        if device != home:
            raise PlacementError(
                f"{what} is placed on {device}, the MTP block that uses it on {home}: it would cross at every "
                f"draft. Place both on {placement.device} (--mtp-device {placement.device}, and no rule that matches "
                f"blk.{config.num_layers}), or use --mtp off"
            )


def _check_same_device(placement: Placement, names: list[str]) -> None:
    devices = {placement.tensors[name] for name in names if name in placement.tensors}
    if len(devices) > 1:
        raise PlacementError(f"{', '.join(names)} are one layer's experts: place all three on one device")
