"""Shares steps between sequences that are being generated and prompts that are still being read.

A sequence that is being generated takes part in every step. Prompts are read in chunks, and a chunk takes as long as
many tokens: so after a step with a chunk, steps without one follow until they have taken as long together. The prompt
that lacks fewest rows gets half of a chunk at most, so that a question does not wait for books; the rest is first come
first served. From that follow the bounds that nobody starves: a generated token waits for one chunk at most, and the
sequences that are generated keep half of the time; the prompt that came first is read at no less than a quarter of the
speed that it would have alone.
"""

from collections.abc import Sequence


class PromptPacing:
    """Says how many rows of each sequence go into the next step."""

    def __init__(self, chunk_rows: int):
        if chunk_rows < 1:
            raise ValueError(f"chunk_rows is {chunk_rows}; it must be at least 1")
        self.chunk_rows = chunk_rows
        self._owed_s = 0.0  # to the sequences that are being generated

    def rows(self, waiting: Sequence[int]) -> list[int]:
        """Rows of each sequence, drafts not counted; 0 sits this step out.

        Args:
            waiting: tokens of each that are not computed yet, in the order of their coming: 1 while it is generated.
        """
        generating = any(n == 1 for n in waiting)
        room = 0 if generating and self._owed_s > 0 else self.chunk_rows
        out = [1 if n == 1 else 0 for n in waiting]
        reading = [i for i, n in enumerate(waiting) if n != 1]
        if reading:
            shortest = min(reading, key=lambda i: waiting[i])
            out[shortest] = min(waiting[shortest], room // 2)
            room -= out[shortest]
        for i in reading:
            taken = min(waiting[i] - out[i], room)
            out[i] += taken
            room -= taken
        return out

    def observe(self, waiting: Sequence[int], rows: Sequence[int], seconds: float) -> None:
        """A step of these rows took `seconds`."""
        generating = any(n == 1 for n in waiting)
        if any(taken for n, taken in zip(waiting, rows, strict=True) if n != 1):
            self._owed_s = seconds if generating else 0.0
        else:
            self._owed_s = max(0.0, self._owed_s - seconds)
