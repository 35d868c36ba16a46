"""Puts a model together: weights at their places, the table of angles, caches."""

from collections.abc import Mapping
from dataclasses import dataclass

from ..backends.cpu_layers import layers_on
from ..backends.cpu_mtp import mtp_on
from ..backends.cpu_trunk import trunk_on
from ..checkpoints.checkpoint import Tensor
from ..placement import Placement
from ..transformer.backend import Backend, Cache, LatentCache
from ..transformer.config import ModelConfig
from ..transformer.mtp import MtpBlock
from ..transformer.rotary import rotary_table
from ..transformer.trunk import Trunk
from .layout import Layout
from .load import Progress, load_weights


@dataclass(frozen=True)
class CacheSize:
    num_slots: int
    num_positions: int  # of each slot
    kind: str  # one of CACHE_TYPES


def assemble(
    tensors: Mapping[str, Tensor],
    config: ModelConfig,
    placement: Placement,
    backends: Mapping[str, Backend],
    layout: Layout,
    size: CacheSize,
    progress: Progress = lambda done, total: None,
    whose: str = "",
) -> tuple[Trunk, MtpBlock | None]:
    """The trunk, and the MTP block if the placement has one.

    Args:
        backends: of all devices that the placement names.
        whose: begins the names of caches.

    Raises:
        DeviceMemoryFull: the device's memory does not hold the weights and caches.
        UnsupportedModel: a block format that no kernel reads.
        OptionError: a type of cache that cannot hold these heads.
    """
    backend = backends[placement.device]

    def cache(name: str, num_layers: int) -> Cache | LatentCache:
        if config.latent is not None:
            shape = (num_layers, size.num_slots, size.num_positions, config.head_size)
            return backend.new_latent_cache(whose + name, shape, size.kind)
        heads = (num_layers, size.num_slots, config.num_kv_heads, size.num_positions, config.head_size)
        return backend.new_cache(whose + name, heads, size.kind)

    with backend.work():
        weights = load_weights(tensors, config, placement, backends, layout, progress)
        angles = (size.num_positions, config.rotated_size, config.rope_base, config.yarn, config.rope_amplitude)
        layers = layers_on(backend, config, backend.upload_vector("rope", rotary_table(*angles)))
        trunk = trunk_on(layers, weights, cache("cache", config.num_layers))
        return trunk, mtp_on(layers, weights.mtp, cache("MTP cache", 1)) if weights.mtp else None
