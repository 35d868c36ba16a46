"""The terms of one decision, and how they read."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from .draft import Draft


@dataclass
class Explanation:
    """Filled while a step is planned."""

    plain_s: float
    price: float  # tokens per second
    draft_s: float
    rows: list[tuple[int, float, float]] = field(default_factory=list)  # sequence, survival, seconds; best first
    probes: int = 0
    cuts: list[tuple[int, list[int]]] = field(default_factory=list)  # layers seen, lengths left

    def text(self, drafts: Sequence[Draft]) -> str:
        """One line."""
        parts = [f"plain {_ms(self.plain_s)}, pass {_ms(self.draft_s)}, price {self.price:.2f} tokens/s"]
        if self.probes:
            parts.append("probe")
        parts.extend(self._row(len(drafts) > 1, *row) for row in self.rows)
        parts.append("verify " + ", ".join(f"{len(d)} {d.source}".rstrip() for d in drafts))
        parts.extend(f"cut to {lengths} behind {layers} expert layers" for layers, lengths in self.cuts)
        return "; ".join(parts)

    def _row(self, several: bool, sequence: int, survival: float, seconds: float) -> str:
        cost = self.price * seconds
        where = f"#{sequence} " if several else ""
        return f"{where}S {survival:.2f} - {cost:.2f} ({_ms(seconds)}) = {survival - cost:+.2f}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms"
