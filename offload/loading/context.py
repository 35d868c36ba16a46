"""How many tokens a model's caches are made for."""

from numbers import Integral

from ..errors import OptionError
from ..transformer.config import ModelConfig

DEFAULT_CONTEXT = 8192  # tokens, or the model's own context if that is shorter


def context_of(asked: int | None, config: ModelConfig) -> int:
    """Positions of the cache.

    Raises:
        OptionError: more than the model was trained for, or too few to say anything.
    """
    if asked is None:
        return min(DEFAULT_CONTEXT, config.context_length)
    if not isinstance(asked, Integral) or not 2 <= asked <= config.context_length:
        raise OptionError(f"context is {asked}; the legal range is 2..{config.context_length} tokens")
    return asked
