"""From logits to a token: filters, then an argmax under noise that depends on seed, position and token alone."""

from .drafts import DraftStart
from .params import SamplingParams
from .sampler import Draw, Sampler

__all__ = ["DraftStart", "Draw", "Sampler", "SamplingParams"]
