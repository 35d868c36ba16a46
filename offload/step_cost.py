"""What a loaded model's steps cost: its bytes at the assumed speed of the devices that hold them.

The speeds are a beginning only: the first measured steps set them right (`scheduler.correction`). What counts until
then is how the parts compare.
"""

from dataclasses import replace

from scheduler import Device, StepCost, Weights, step_cost

from .costs import weight_bytes
from .mtp import MtpBlock
from .placement import HOST
from .trunk import Trunk
from .weights import DeviceExperts, MoeWeights

CPU = Device(bytes_per_s=20e9, row_share=0.12)
ACCELERATOR = Device(bytes_per_s=400e9, row_share=0.03)
LAYER_S = 1e-4  # of a layer beside its weights: waking threads, hand-offs, Python


def step_cost_of(trunk: Trunk, mtp: MtpBlock | None) -> StepCost:
    """The cost of a model whose weights stand where its backends put them."""
    blocks, device = trunk.weights.blocks, _device(trunk)
    moe = [block.ffn for block in blocks if isinstance(block.ffn, MoeWeights)]
    dense = weight_bytes(blocks) + weight_bytes(trunk.weights.head)
    draft, fill = ([], []) if mtp is None else (_pass(mtp), [_fill(mtp)])
    return step_cost(
        dense=[Weights(dense, device)],
        experts=[_expert(ffn, device) for ffn in moe],
        kv_per_position=Weights(trunk.cache.bytes_per_token, device),
        draft=draft,
        fill=fill,
        hand_offs_s=LAYER_S * len(blocks),
        draft_hand_offs_s=LAYER_S,
    )


def _device(part: Trunk | MtpBlock) -> Device:
    """What computes a part, its experts excepted."""
    return CPU if part.layers.backend.name == HOST else ACCELERATOR


def _expert(ffn: MoeWeights, device: Device) -> Weights:
    """One expert. On an accelerator every row reads its own: nothing is shared."""
    if isinstance(ffn.experts, DeviceExperts):
        return Weights(ffn.experts.expert_bytes, replace(device, row_share=1.0))
    return Weights(ffn.experts.expert_bytes, CPU)


def _pass(mtp: MtpBlock) -> list[Weights]:
    """What the block reads to guess one token."""
    weights, device, num_used = mtp.weights, _device(mtp), mtp.layers.config.num_used_experts
    assert isinstance(weights.block.ffn, MoeWeights)
    dense = weight_bytes((weights.projection, weights.block, weights.head))
    expert = _expert(weights.block.ffn, device)
    return [Weights(dense, device), Weights(num_used * expert.num_bytes, expert.device)]


def _fill(mtp: MtpBlock) -> Weights:
    """What a token needs to be seen by later ones."""
    attention = mtp.weights.block.attention
    return Weights(weight_bytes((mtp.weights.projection, attention.k, attention.v)), _device(mtp))
