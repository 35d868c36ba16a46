"""What a user can say about devices, and about where tensors go."""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path

from ..errors import OptionError
from .rules import Rule, parse_rules


@dataclass(frozen=True)
class PlacementOptions:
    """Rules come first; then the layers of experts that are asked for; then as many as fit.

    Raises:
        OptionError: a count below 0, or both counts at once.
    """

    mtp_device: str | None = None  # where the MTP block stands; the device
    placement_rules: Sequence[Rule | str] = ()  # PATTERN=DEVICE, the first that matches a tensor decides
    n_cpu_moe: int | None = None  # experts of so many leading layers on the CPU, all others on the device
    gpu_expert_layers: int | None = None  # layers whose experts stand on the device, counted from the last
    gpu_memory: int | None = None  # bytes to use at the most; of an emulated card, how large it is
    ram: int | None = None  # bytes for what stands on the host

    def __post_init__(self) -> None:
        for name in ("n_cpu_moe", "gpu_expert_layers", "gpu_memory", "ram"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, Integral) and int(value) >= 0):
                raise OptionError(f"{name} is {value}; it must be at least 0, a whole number")
        if self.n_cpu_moe is not None and self.gpu_expert_layers is not None:
            raise OptionError("n_cpu_moe and gpu_expert_layers say the same thing twice: give one of them")

    @property
    def rules(self) -> list[Rule]:
        found: list[Rule] = []
        for rule in self.placement_rules:
            found += parse_rules(rule) if isinstance(rule, str) else [rule]
        return found


@dataclass(frozen=True)
class DeviceOptions(PlacementOptions):
    """What a user can say about devices."""

    device: str = "auto"  # runs everything but the routed experts that do not fit beside it
    mtp: str = "auto"  # "on" insists on the MTP block, "off" leaves it out of memory
    draft_model: str | Path | None = None  # a small model that drafts in place of the MTP block, on the device
    check_backends: bool = False  # look at every torch operation for tensors that cross where they must not

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.draft_model is not None and self.mtp == "on":
            raise OptionError("mtp is on and there is a draft_model: one of them drafts, leave the other out")

    @property
    def mtp_mode(self) -> str:
        """Whether to load the MTP block: not where a draft model takes its place."""
        return self.mtp if self.draft_model is None else "off"
