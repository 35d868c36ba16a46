"""From logits to a token: filters, then an argmax under noise that depends on seed, position and token alone."""

from .params import SamplingParams
from .sampler import Draw, Sampler

__all__ = ["Draw", "Sampler", "SamplingParams"]
