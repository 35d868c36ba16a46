"""What a loaded model's steps cost: its bytes at the speed of the devices that hold them, measured or assumed.

The speeds are a beginning only: the first measured steps set them right (`scheduler.correction`). What counts until
then is how the parts compare.
"""

from dataclasses import dataclass, replace

import experts
from scheduler import Device, StepCost, Weights, step_cost

from .costs import weight_bytes
from .hardware import Hardware, accelerator_device, host_device
from .placement import HOST
from .transformer.mtp import MtpBlock
from .transformer.trunk import Trunk
from .transformer.weights import DeviceExperts, MoeWeights, host_weights

CPU = Device(bytes_per_s=20e9, row_share=0.12)
ACCELERATOR = Device(bytes_per_s=400e9, row_share=0.03)
LAYER_S = 1e-4  # of a layer beside its weights: waking threads, hand-offs, Python
START_S = 1e-4  # of setting out to draft: gathering what the drafter has not seen, reading its drafts back


@dataclass(frozen=True)
class Speeds:
    """Of the devices that a model stands on."""

    host: Device = CPU
    accelerator: Device = ACCELERATOR


def speeds_of(trunk: Trunk, hardware: Hardware | None) -> Speeds:
    """From a profile of this machine, as far as it was not busy then; what is not known is assumed."""
    if hardware is None:
        return Speeds()
    device, speeds = trunk.layers.backend.name, Speeds()
    if not {"ram", "kernels"} & set(hardware.busy.affected):
        native = not any(weights.interleaved for weights in host_weights(trunk.weights))
        speeds = replace(speeds, host=host_device(hardware, experts.num_threads(), native))
    names = [name for name in hardware.accelerators if name in (device, f"{device}:0")]
    if names and "links" not in hardware.busy.affected:
        speeds = replace(speeds, accelerator=accelerator_device(hardware, names[0]))
    return speeds


def step_cost_of(trunk: Trunk, drafts_by: MtpBlock | Trunk | None, hardware: Hardware | None = None) -> StepCost:
    """The cost of a model whose weights stand where its backends put them.

    Args:
        drafts_by: the MTP block, or a draft model.
    """
    speeds = speeds_of(trunk, hardware)
    blocks, device = trunk.weights.blocks, _device(trunk, speeds)
    moe = [block.ffn for block in blocks if isinstance(block.ffn, MoeWeights)]
    dense = weight_bytes(blocks) + weight_bytes(trunk.weights.head)
    draft, fill = _passes(drafts_by, speeds)
    return step_cost(
        dense=[Weights(dense, device)],
        experts=[_expert(ffn, speeds) for ffn in moe],
        kv_per_position=Weights(trunk.cache.bytes_per_token, device),
        draft=draft,
        fill=fill,
        hand_offs_s=LAYER_S * len(blocks),
        draft_hand_offs_s=LAYER_S * (len(drafts_by.weights.blocks) if isinstance(drafts_by, Trunk) else 1),
        start_s=START_S,
    )


def _device(part: Trunk | MtpBlock, speeds: Speeds) -> Device:
    """What computes a part, its experts excepted."""
    return speeds.host if part.layers.backend.name == HOST else speeds.accelerator


def _expert(ffn: MoeWeights, speeds: Speeds) -> Weights:
    """One expert. On an accelerator every row reads its own: nothing is shared."""
    layer = ffn.experts
    if isinstance(layer, DeviceExperts):
        return Weights(layer.expert_bytes, replace(speeds.accelerator, row_share=1.0))
    name = layer.gate.format.name
    return Weights(layer.expert_bytes, speeds.host, name if name in speeds.host.format_share else "")


def _passes(drafts_by: MtpBlock | Trunk | None, speeds: Speeds) -> tuple[list[Weights], list[Weights]]:
    """What a drafted token reads, and what a token reads that is only to be seen by later ones."""
    if drafts_by is None:
        return [], []
    if isinstance(drafts_by, MtpBlock):
        return _pass(drafts_by, speeds), [_fill(drafts_by, speeds)]
    blocks, num_used = drafts_by.weights.blocks, drafts_by.layers.config.num_used_experts
    moe = [_expert(block.ffn, speeds) for block in blocks if isinstance(block.ffn, MoeWeights)]
    device = _device(drafts_by, speeds)
    fill = [Weights(weight_bytes(blocks), device)]
    fill += [replace(expert, num_bytes=num_used * expert.num_bytes) for expert in moe]
    return [*fill, Weights(weight_bytes(drafts_by.weights.head), device)], fill


def _pass(mtp: MtpBlock, speeds: Speeds) -> list[Weights]:
    """What the block reads to guess one token."""
    weights, num_used = mtp.weights, mtp.layers.config.num_used_experts
    assert isinstance(weights.block.ffn, MoeWeights)
    dense = weight_bytes((weights.projection, weights.block, weights.head))
    expert = _expert(weights.block.ffn, speeds)
    return [Weights(dense, _device(mtp, speeds)), replace(expert, num_bytes=num_used * expert.num_bytes)]


def _fill(mtp: MtpBlock, speeds: Speeds) -> Weights:
    """What a token needs to be seen by later ones."""
    weights = (mtp.weights.projection, mtp.weights.block.attention.of_cache)
    return Weights(weight_bytes(weights), _device(mtp, speeds))
