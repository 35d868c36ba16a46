"""What a second is worth: the tokens that the same second would otherwise give.

To maximize tokens per second over a run whose steps differ, each step has to maximize tokens - price x seconds, where
the price is the rate of the whole run (Dinkelbach 1967, "On nonlinear fractional programming"). The rate of the step
itself would be the wrong price: a lucky step would stop too early, an unlucky one too late.

The rate is kept as a multiple of plain decoding's, which itself changes with the context and the number of sequences.
"""

MEMORY_STEPS = 50.0


class Price:
    """Speed of the recent steps over that of plain decoding, never below 1."""

    def __init__(self) -> None:
        self._tokens = 0.0
        self._plain_tokens = 0.0
        self._steps = 0.0

    def observe(self, tokens: float, plain_tokens: float, steps: int = 1) -> None:
        """Steps that were to give `tokens`, luck left out, in whose seconds plain decoding gives `plain_tokens`."""
        keep = (1 - 1 / MEMORY_STEPS) ** max(0.0, self._steps + steps - MEMORY_STEPS)
        self._tokens = keep * self._tokens + tokens
        self._plain_tokens = keep * self._plain_tokens + plain_tokens
        self._steps = min(MEMORY_STEPS, self._steps + steps)

    @property
    def speedup(self) -> float:
        return max(1.0, self._tokens / self._plain_tokens) if self._plain_tokens else 1.0
