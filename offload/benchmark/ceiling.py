"""The ceiling: what a step of one token must read, by device, over what the memories deliver."""

from dataclasses import dataclass

import experts

from ..api import LanguageModel
from ..costs import weight_bytes
from ..hardware import Found
from ..hardware.probe import Probe
from ..placement import HOST
from ..profiling import ram
from ..transformer.backend import Backend
from ..transformer.weights import DeviceExperts, MoeWeights


@dataclass(frozen=True)
class Ceiling:
    """Of plain decoding of one sequence; drafts and further sequences read less for a token, and may exceed it."""

    bytes_per_s: dict[str, float]  # by device
    source: str  # where the bandwidths come from

    def tokens_per_s(self, num_bytes: dict[str, int]) -> float:
        """Where devices read one after the other, as layers do."""
        return 1 / sum(count / self.bytes_per_s[name] for name, count in num_bytes.items())


def step_bytes(model: LanguageModel, positions: int) -> dict[str, int]:
    """Bytes by device that one token reads: weights, its experts, keys and values of all positions."""
    device, trunk = model.backend.name, model.trunk
    found = {device: weight_bytes(trunk.weights.blocks) + weight_bytes(trunk.weights.head)}
    found[device] += positions * trunk.cache.bytes_per_token
    for block in trunk.weights.blocks:
        if isinstance(block.ffn, MoeWeights):
            home = device if isinstance(block.ffn.experts, DeviceExperts) else HOST
            used = model.config.num_used_experts * block.ffn.experts.expert_bytes
            found[home] = found.get(home, 0) + used
    return found


def measured_now() -> float:
    """Bytes a second that the kernels' threads read at this moment."""
    count = experts.num_threads()
    probe = Probe()
    return ram.read_by_threads(probe, [count], 0.5)[count].rate(probe.num_bytes)


def ceiling_of(model: LanguageModel, found: Found | None, now_bytes_per_s: float) -> Ceiling:
    """From the profile as far as it is good for this machine, else from what was measured now."""
    if found is None or "ram" in found.hardware.busy.affected:
        source = "RAM as measured between rounds" + (", for the profile was made on a busy machine" if found else "")
        rates = {HOST: now_bytes_per_s}
    else:
        source = f"profile {found.source}"
        rates = {HOST: found.hardware.ram.bytes_per_s(experts.num_threads())}
    if model.backend.name != HOST:
        rates[model.backend.name] = _accelerator_bytes_per_s(model.backend, found)
    return Ceiling(rates, source)


def _accelerator_bytes_per_s(backend: Backend, found: Found | None) -> float:
    """Of its memory: the card's that is emulated, the profile's, or measured now."""
    if backend.name == "emulated":
        return backend.clock.card.memory_bytes_per_s  # type: ignore[attr-defined,no-any-return]
    known = found.hardware.accelerators if found else {}
    for name in (backend.name, f"{backend.name}:0"):
        if name in known:
            return known[name].memory_bytes_per_s
    import torch

    from ..profiling.accelerators import measure_accelerator

    return measure_accelerator(torch.device(backend.name), 1.0).memory_bytes_per_s
