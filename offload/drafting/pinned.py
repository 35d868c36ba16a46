"""All that a drafter computes with stands on the trunk's device: checked before anything runs."""

from ..errors import OptionError, PlacementError
from ..placement import Placement
from ..transformer.trunk import Trunk
from .protocol import Drafter


def check_drafter(drafter: Drafter, trunk: Trunk) -> None:
    """Refuses a drafter that does not fit the trunk.

    Raises:
        PlacementError: it computes on another device.
        OptionError: it wants to see layers that there are not.
    """
    backend, own = drafter.backend, trunk.layers.backend
    if backend is not None and backend is not own:
        raise PlacementError(
            f"{type(drafter).__name__} computes on {backend.name} by a backend of its own, the trunk on {own.name}: "
            "states and drafts would cross at every step. Make it with the backend of the trunk"
        )
    num_layers = len(trunk.weights.blocks)
    for layer in drafter.taps:
        if not 0 <= layer < num_layers:
            raise OptionError(f"{type(drafter).__name__} taps layer {layer}; the trunk has 0..{num_layers - 1}")


def check_on_one_device(placement: Placement) -> None:
    """Refuses a plan that does not keep all of a draft model on one device.

    Raises:
        PlacementError: the first tensor or cache that stands elsewhere.
    """
    stands = {f"tensor {name}": device for name, device in placement.tensors.items()}
    stands |= {f"the cache of block {block}": device for block, device in placement.caches.items()}
    for part, device in stands.items():
        if device != placement.device:
            raise PlacementError(
                f"{part} of the draft model is placed on {device}, the rest of it on {placement.device}: it would "
                "cross at every draft. Place all of it on one device"
            )
