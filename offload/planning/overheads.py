"""Seconds of a step in which no weights are read: calls of kernels, and transfers between accelerator and host."""

from ..hardware import Hardware
from ..transformer.config import ModelConfig

# Where no profile tells:
LAYER_S = 2e-4  # a layer on the host beside its weights: two calls, as measured on a Zen 4 server
HAND_OFF_S = 50e-6  # a layer's round trip
LAUNCH_S = 5e-6  # of a kernel on an accelerator
STEP_S = 5e-4  # of a step beside its layers
EXPERTS_S = 1e-4  # a call for a layer's experts; with hand-off and launches 0.15 ms, which an H100 took at most
ATTENTION, ROUTER, FFN = 5, 1, 3  # kernels that multiply, in a layer


def overheads_s(config: ModelConfig, hardware: Hardware, accelerator: str | None, hosted: int, rows: int = 1) -> float:
    """Of a step of so many rows.

    Args:
        accelerator: that runs the trunk, by its name in the profile; None if the host does.
        hosted: layers whose experts stand on the host all the same.
    """
    if accelerator is None:
        return (hardware.latency_s.layer or LAYER_S) * config.num_layers
    link, launch_s = hardware.links[accelerator], hardware.accelerators[accelerator].launch_s or LAUNCH_S
    down = rows * (4 * config.hidden_size + 8 * config.num_used_experts)
    moved_s = down / link.down.bytes_per_s + rows * 4 * config.hidden_size / link.up.bytes_per_s
    hand_off_s = hardware.latency_s.hand_off.get(accelerator, HAND_OFF_S)
    logits_s = link.down.latency_s + 4 * config.vocab_size / link.down.bytes_per_s
    read_back_s = link.down.latency_s if hosted < config.num_moe_layers else 0.0  # which experts were chosen there
    tokens_s = link.up.latency_s
    return hosted * (hand_off_s + moved_s) + num_launches(config, hosted) * launch_s + tokens_s + logits_s + read_back_s


def host_s(hardware: Hardware, device: str, accelerator: str | None, hosted: int) -> float:
    """Of a step on the host: calls for an accelerator's experts, and beside the layers drawing the token, bookkeeping.

    An emulated card's clock counts only the calls.
    """
    latency = hardware.latency_s
    calls_s = hosted * (EXPERTS_S if latency.experts is None else latency.experts) if accelerator else 0.0
    around_s = STEP_S if latency.step is None else latency.step
    return calls_s if device == "emulated" else calls_s + around_s


def num_launches(config: ModelConfig, hosted: int) -> int:
    """Kernels of a step that multiply; with latent attention two more a layer."""
    attention = ATTENTION + (2 if config.latent else 0)
    moe = ROUTER + (FFN if config.num_shared_experts else 0)
    here = config.num_moe_layers - hosted
    embedding_and_head = 2
    return (
        embedding_and_head
        + config.num_layers * attention
        + config.num_dense_layers * FFN
        + config.num_moe_layers * moe
        + here * FFN
    )
