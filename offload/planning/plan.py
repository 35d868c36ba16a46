"""The plan of a model on a machine: what stands where, whether it fits, what would make it fit, how fast it will be."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..backends.memory import DeviceMemory, Workload, kv_bytes_per_token, total_bytes
from ..checkpoints.checkpoint import Checkpoint, Tensor
from ..loading.layout_choice import Host, LayoutChoice, chosen_layout, mapped_bytes
from ..loading.tensors import usable_tensors
from ..placement import HOST
from ..transformer.config import config_of
from .caches import host_cache_bytes
from .options import DeviceOptions
from .place import Placed, choose_placement
from .predict import Prediction, predict
from .reading import Account, account_of
from .target import Target


@dataclass(frozen=True)
class DeviceUse:
    """The memory of a device."""

    name: str
    kind: str
    budget_bytes: int
    used_bytes: int
    reserved_bytes: int = 0  # for what a step takes for a moment, for drivers and allocators

    @property
    def missing_bytes(self) -> int:
        return max(0, self.used_bytes + self.reserved_bytes - self.budget_bytes)


@dataclass(frozen=True)
class Plan:
    name: str  # of the model
    context: int
    depth: int  # cached positions that the predicted speeds are for
    placed: Placed
    devices: tuple[DeviceUse, ...]  # the accelerator first, then the host
    layout: LayoutChoice  # of weights on the host
    asked_layout: str
    account: Account
    kv_bytes_per_token: int
    expert_layers: tuple[int, int]  # layers with experts on the device, and all
    prediction: Prediction

    @property
    def fits(self) -> bool:
        return not any(device.missing_bytes for device in self.devices)


def make_plan(
    checkpoint: Checkpoint, target: Target, options: DeviceOptions, work: Workload, layout: str = "auto"
) -> Plan:
    """Plans a model; that it does not fit is part of the plan, not an error.

    Args:
        layout: of weights on the host, one of LAYOUTS; "auto" is what loading would choose on that machine.

    Raises:
        OptionError: an unknown layout.
        PlacementError: rules that cannot run, or that would make MTP tensors cross.
        CheckpointError: no model that can be run.
    """
    config = config_of(checkpoint)
    tensors = usable_tensors(checkpoint, config, options.mtp_mode)
    placed = choose_placement(tensors, config, target.device, target.memory, work, options)
    placement, depth = placed.placement, work.context // 2
    caches = host_cache_bytes(config, placement, work)
    on_host = {name: tensor for name, tensor in tensors.items() if placement.tensors[name] == HOST}
    chosen = _layout(layout, on_host, target, options.ram, caches)
    added = chosen.added_bytes
    account = account_of(tensors, config, placement, target.memory, work.cache_type, depth, added)
    used = total_bytes(on_host.values()) + sum(added.values()) + caches
    native = chosen.name == "native"
    prediction = predict(account, config, target.device, target.accelerator, target.hardware, work.rows, native)
    return Plan(
        name=str(checkpoint.get("general.name", str, checkpoint.paths[0].name if checkpoint.paths else "")),
        context=work.context,
        depth=depth,
        placed=placed,
        devices=(*_accelerators(target, placed), DeviceUse(HOST, "cpu", target.ram_bytes, used)),
        layout=chosen,
        asked_layout=layout,
        account=account,
        kv_bytes_per_token=kv_bytes_per_token(config, work.cache_type),
        expert_layers=(len(account.expert_layers) - account.hosted, len(account.expert_layers)),
        prediction=prediction,
    )


def beside(target: Target, draft_model: Checkpoint, work: Workload) -> Target:
    """The same machine with a draft model in the accelerator's memory, or in the host's where there is none."""
    config = config_of(draft_model)
    tensors = usable_tensors(draft_model, config, "off")
    memory = target.memory or DeviceMemory(None, (), 0)
    num_bytes = memory.cache_bytes(config, config.num_layers, work.context * work.num_slots, work.cache_type)
    if target.memory is None:
        return replace(target, ram_bytes=max(0, target.ram_bytes - num_bytes - total_bytes(tensors.values())))
    num_bytes += sum(memory.tensor_bytes(t) for t in tensors.values())
    num_bytes += memory.fixed_bytes(config, tensors, work.context)
    note = f"the draft model takes {num_bytes / 1e9:.2f} GB of {target.device}, which the budget below is without"
    free = max(0, (memory.free_bytes or 0) - num_bytes)
    return replace(target, memory=replace(memory, free_bytes=free), notes=(*target.notes, note))


def _layout(
    asked: str, tensors: Mapping[str, Tensor], target: Target, ram: int | None, reserved_bytes: int
) -> LayoutChoice:
    """What loading would choose of the tensors on the host; where they do not fit, as if they just did."""
    of = target.hardware
    enough = Host(sys.maxsize, of.machine.cores, lambda: of.ram.best_bytes_per_s)
    if asked != "auto":
        return chosen_layout(asked, tensors, enough)
    mapped = mapped_bytes(tensors)
    need, room = total_bytes(tensors.values()) - mapped, target.ram_bytes - reserved_bytes - mapped
    if room < need or ram is not None:
        return chosen_layout(asked, tensors, replace(enough, budget_bytes=max(room, need)))
    return chosen_layout(asked, tensors, replace(enough, free_bytes=room))


def _accelerators(target: Target, placed: Placed) -> list[DeviceUse]:
    if target.memory is None:
        return []
    budget = placed.budget_bytes
    assert budget is not None, "a plan knows the size of the memory"
    return [DeviceUse(target.device, target.kind, budget, placed.held_bytes, placed.working_bytes)]
