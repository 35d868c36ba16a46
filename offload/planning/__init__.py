"""Where a model's tensors and caches go, what that takes of each memory, and how fast it will be."""

from ..backends.memory import Workload
from .caches import check_caches, host_cache_bytes
from .options import DeviceOptions, PlacementOptions
from .place import Placed, check_fits, check_ram, choose_placement
from .rules import Rule, parse_rules

__all__ = [
    "DeviceOptions",
    "Placed",
    "PlacementOptions",
    "Rule",
    "Workload",
    "check_caches",
    "check_fits",
    "check_ram",
    "choose_placement",
    "host_cache_bytes",
    "parse_rules",
]
