"""How far to speculate: draft lengths, acceptance, expert reuse. numpy only: no torch, no numba, no input or output."""

from .acceptance import AcceptanceCounter
from .policy import DraftPolicy, FixedLength
from .reuse import ReuseCounter, distinct_experts

__all__ = ["AcceptanceCounter", "DraftPolicy", "FixedLength", "ReuseCounter", "distinct_experts"]
