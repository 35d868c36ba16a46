"""An emulated accelerator: a second torch device with memory of its own, for tests and for plans of absent machines."""

from ...hardware.cards import CARDS
from .backend import EmulatedBackend, open_emulated

__all__ = ["CARDS", "EmulatedBackend", "open_emulated"]
