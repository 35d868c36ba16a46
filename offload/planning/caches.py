"""The caches of the context that is asked for, on the host: their size, and whether it holds them."""

import warnings

from ..backends.memory import DeviceMemory, Workload, kv_bytes_per_token
from ..errors import OptionError
from ..hardware.limits import all_memory, free_memory
from ..placement import HOST, Placement
from ..transformer.config import ModelConfig


def check_caches(config: ModelConfig, placement: Placement, work: Workload) -> None:
    """Refuses caches that this machine can never hold; warns of those that it cannot hold now.

    They take memory only as far as they are filled, so the second is no error.

    Raises:
        OptionError: what they take, what there is, what to do.
    """
    if placement.device != HOST:
        return
    layers = config.num_layers + placement.has_mtp(config)
    keys_values = work.num_slots * kv_bytes_per_token(config, work.cache_type) * layers // config.num_layers
    need = work.context * (keys_values + 4 * config.rotated_size)  # with the table of angles
    there, free = all_memory(), free_memory()
    advice = "lower --context or --slots, or take --cache-type q8_0"
    asked = f"a context of {work.context} tokens in {work.num_slots} slots takes {need / 1e9:.1f} GB when it is full"
    if need > there:
        raise OptionError(f"{asked}, this process may have {there / 1e9:.1f} GB: {advice}")
    if need > free:
        warnings.warn(f"{asked}, {free / 1e9:.1f} GB are free now: {advice}", stacklevel=3)


def host_cache_bytes(config: ModelConfig, placement: Placement, work: Workload) -> int:
    """What they take of the host's memory when they are full."""
    if placement.device != HOST:
        return 0
    layers = config.num_layers + placement.has_mtp(config)
    return DeviceMemory(None, (), 0).cache_bytes(config, layers, work.context * work.num_slots, work.cache_type)
