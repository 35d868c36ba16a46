"""Drafters guess the next tokens of a sequence; the trunk verifies them."""

from .auto import AutoDrafter
from .mtp import MtpDrafter
from .ngram import NgramDrafter
from .protocol import Draft, Drafter, NoDrafter, Observation

__all__ = ["AutoDrafter", "Draft", "Drafter", "MtpDrafter", "NgramDrafter", "NoDrafter", "Observation"]
