"""Runs mixture-of-experts language models whose experts stay in main memory.

import offload
model = offload.load("model.gguf")
for event in model.generate("def fibonacci(n):", max_tokens=64, draft=2, temperature=0):
    print(event.text, end="")
"""

from .api import LanguageModel, load
from .errors import MoeOffloadError
from .generation import Generation
from .request import GenerationRequest
from .result import Result, TokenEvent
from .sampling import Grammar

__all__ = [
    "Generation",
    "GenerationRequest",
    "Grammar",
    "LanguageModel",
    "MoeOffloadError",
    "Result",
    "TokenEvent",
    "load",
]
