"""An emulated accelerator: a second torch device with memory of its own, for tests and for plans of absent machines."""

from .backend import EmulatedBackend, open_emulated
from .cards import CARDS

__all__ = ["CARDS", "EmulatedBackend", "open_emulated"]
