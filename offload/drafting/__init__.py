"""Drafters guess the next tokens of a sequence; the trunk verifies them. The contract: protocol.py."""

from .auto import AutoDrafter
from .chain import Chain, draw_drafts
from .checked import CheckedDrafter
from .choice import Drafters
from .model import ModelDrafter
from .mtp import MtpDrafter
from .ngram import NgramDrafter
from .pinned import check_drafter, check_on_one_device
from .protocol import Draft, Drafter, NoDrafter, Observation

__all__ = [
    "AutoDrafter",
    "Chain",
    "CheckedDrafter",
    "Draft",
    "Drafter",
    "Drafters",
    "ModelDrafter",
    "MtpDrafter",
    "NgramDrafter",
    "NoDrafter",
    "Observation",
    "check_drafter",
    "check_on_one_device",
    "draw_drafts",
]
