"""What a user can say about sampling."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real

from ..errors import OptionError

MOST_BIAS = 1e30  # so that no penalty takes a logit to the end of float32
RANGES = {  # those of whole numbers begin at one
    "temperature": (0.0, 100.0),
    "top_k": (0, 1 << 31),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "repetition_penalty": (0.01, 100.0),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
    "penalty_last_n": (0, 1 << 31),
    "seed": (0, (1 << 64) - 1),
    "logprobs": (0, 1 << 31),
}


@dataclass(frozen=True)
class SamplingParams:
    """Sampling parameters, with llama.cpp's defaults and order: bias, penalties, top-k, top-p, min-p, temperature.

    Raises:
        OptionError: a value outside its legal range.
    """

    temperature: float = 0.8  # 0 takes the most probable token
    top_k: int = 40  # 0 keeps all
    top_p: float = 0.95  # 1 keeps all
    min_p: float = 0.05  # share of the largest probability; 0 keeps all
    repetition_penalty: float = 1.0  # divides positive logits of tokens seen, 1 is off
    presence_penalty: float = 0.0  # subtracted from tokens seen
    frequency_penalty: float = 0.0  # subtracted for each time seen
    penalty_last_n: int = 64  # tokens that the penalties look back
    seed: int = 0  # the same call gives the same text
    logit_bias: Mapping[int, float] = field(default_factory=dict)  # token id -> added to its logit
    logprobs: int | None = None  # report log-probabilities: the token's own and those of so many best ones

    def __post_init__(self) -> None:
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if value is None and name == "logprobs":
                continue
            kind, which = (Integral, ", whole numbers") if isinstance(low, int) else (Real, "")
            is_kind = isinstance(value, kind)
            if not is_kind or not low <= value <= high:  # also refuses NaN
                raise OptionError(f"{name} is {value}; the legal range is {low}..{high}{which}")
        if not isinstance(self.logit_bias, Mapping):
            raise OptionError(f"logit_bias is {self.logit_bias!r:.60}; it must map token ids to numbers")
        for token_id, bias in self.logit_bias.items():
            is_bias = isinstance(bias, Real) and (bias == -math.inf or -MOST_BIAS <= bias <= MOST_BIAS)
            if not isinstance(token_id, Integral) or token_id < 0 or not is_bias:
                raise OptionError(
                    f"logit_bias {{{token_id}: {bias}}}: ids are whole numbers from 0, a bias is -inf or "
                    f"{-MOST_BIAS}..{MOST_BIAS}"
                )

    @property
    def has_penalties(self) -> bool:
        return self.repetition_penalty != 1.0 or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0

    @property
    def look_back(self) -> int:
        """How many of the last tokens a draw depends on."""
        return self.penalty_last_n if self.has_penalties else 0
