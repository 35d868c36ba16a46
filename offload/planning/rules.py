"""Rules that place tensors by their names, as llama.cpp's `--override-tensor` writes them: PATTERN=DEVICE."""

import re
import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ..errors import OptionError, PlacementError
from ..placement import HOST

HOST_NAMES = ("cpu", "host")
DEVICE_NAMES = ("gpu", "cuda", "rocm", "hip", "sycl", "xpu", "vulkan", "metal", "mps", "emulated")


@dataclass(frozen=True)
class Rule:
    """Tensors whose name contains the regular expression `match` stand on `device`."""

    match: str
    device: str

    def __post_init__(self) -> None:
        try:
            re.compile(self.match)
        except re.error as error:
            raise OptionError(f"placement rule {self.match!r} is no regular expression: {error}") from None


def parse_rules(text: str) -> list[Rule]:
    """The rules of "PATTERN=DEVICE,PATTERN=DEVICE".

    Raises:
        OptionError: no `=`, or no regular expression before it.
    """
    rules = []
    for part in text.split(","):
        match, equals, device = part.rpartition("=")
        if not (match and equals and device.strip()):
            raise OptionError(
                f"placement rule {part!r}: write PATTERN=DEVICE, such as 'blk\\.(1[0-9])\\.ffn_.*_exps=gpu'"
            )
        rules.append(Rule(match.strip(), device.strip()))
    return rules


def placed_by(rules: Sequence[Rule], names: Collection[str], device: str) -> dict[str, str]:
    """Devices of the tensors that a rule matches; the first one that does decides.

    Args:
        device: the accelerator, by its name here.

    Raises:
        PlacementError: a rule names a device that is not in use, or matches no tensor.
    """
    placed: dict[str, str] = {}
    for rule in rules:
        found = [name for name in names if re.search(rule.match, name)]
        if not found:
            raise PlacementError(
                f"placement rule {rule.match!r} matches no tensor; moe-offload inspect MODEL --tensors lists them"
            )
        if placed.keys() >= set(found):
            warnings.warn(f"placement rule {rule.match!r} decides nothing: earlier rules match all of it", stacklevel=2)
        target = _device_of(rule, device)
        for name in found:
            placed.setdefault(name, target)
    return placed


def _device_of(rule: Rule, device: str) -> str:
    """`cpu`, or the accelerator that is in use, for what people and llama.cpp call them (CPU, CUDA0, gpu)."""
    asked = rule.device.lower()
    if asked in HOST_NAMES or asked == device:
        return HOST if asked in HOST_NAMES else device
    if device == HOST:
        raise PlacementError(
            f"placement rule {rule.match!r} names {rule.device!r}, but only the CPU is in use: choose a --device"
        )
    named = re.fullmatch(r"([a-z]+):?(\d*)", asked)
    index = device.partition(":")[2] or "0"
    if named and named[1] in DEVICE_NAMES and (named[2] or index) == index:
        return device
    raise PlacementError(
        f"placement rule {rule.match!r} names {rule.device!r}; the devices in use are {HOST} and {device}"
    )
