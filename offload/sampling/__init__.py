"""From logits to a token: a grammar's mask, filters, then an argmax under noise of seed, position and token alone."""

from .drafts import DraftStart
from .grammar import Calls, Grammar
from .logprobs import Logprobs, logprobs
from .matcher import Matcher, Vocabulary
from .params import SamplingParams
from .sampler import Draw, Sampler

__all__ = [
    "Calls", "DraftStart", "Draw", "Grammar", "Logprobs", "Matcher", "Sampler", "SamplingParams", "Vocabulary",
    "logprobs",
]  # fmt: skip
