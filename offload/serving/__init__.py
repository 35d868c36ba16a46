"""Several requests at once in one model: continuous batching over cache slots, in a thread of its own.

    model = offload.load("model.gguf", slots=4)
    loop = model.serve(max_waiting=64)
    answer = loop.submit(GenerationRequest(model.tokenizer.encode("def fib(n):"), max_tokens=64, draft=2))
    for event in answer:  # or `async for event in answer`, or `await answer` for the result alone
        print(event.text, end="")
    answer.result, answer.cancel()
    loop.slots(), loop.totals()  # for /slots and /metrics
    loop.close(grace_s=10)

What a request gets is byte for byte what it would get alone, whatever runs beside it.
"""

from ..request import GenerationRequest
from .answer import Answer
from .loop import ServingLoop
from .report import SlotReport
from .totals import Totals

__all__ = ["Answer", "GenerationRequest", "ServingLoop", "SlotReport", "Totals"]
