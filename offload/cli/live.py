"""The live line of `--stats`: the speed of the last seconds, on the bottom line of a terminal below the running text.

Where errors do not go to a terminal, a line of text every few seconds.
"""

import shutil
import sys
import time
from collections import deque
from types import TracebackType
from typing import NamedTuple, TextIO

import experts

from ..hardware import profile_of_this_machine
from ..result import Result

WINDOW_S = 3.0  # that speeds are taken over
TERMINAL_S, FILE_S = 0.15, 5.0  # between two updates

SAVE, RESTORE, CLEAR = "\x1b7", "\x1b8", "\x1b[2K"


class _Moment(NamedTuple):
    at_s: float
    tokens: int
    num_bytes: int
    decode_s: float


class LiveStats:
    """Use it as a context around a generation, and call `update` as its result grows.

    Args:
        ceiling_bytes_per_s: what the memory delivers; 0 if nobody has measured it.
        stream: where the line goes.
    """

    def __init__(self, ceiling_bytes_per_s: float = 0.0, stream: TextIO | None = None):
        self._ceiling, self._stream = ceiling_bytes_per_s, stream or sys.stderr
        self._is_terminal = self._stream.isatty()
        self._moments: deque[_Moment] = deque()
        self._shown_s = 0.0
        self._lines = 0  # of the terminal, once its last one is ours

    def __enter__(self) -> "LiveStats":
        self._moments.clear()
        self._shown_s = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lines:  # gives the whole screen back
            self._stream.write(f"{SAVE}\x1b[r\x1b[{self._lines};1H{CLEAR}{RESTORE}")
            self._stream.flush()
            self._lines = 0

    def update(self, result: Result) -> None:
        now = time.perf_counter()
        self._moments.append(_Moment(now, len(result.tokens), result.decode_bytes, result.decode_s))
        while len(self._moments) > 2 and self._moments[0].at_s < now - WINDOW_S:
            self._moments.popleft()
        if now - self._shown_s < (TERMINAL_S if self._is_terminal else FILE_S):
            return
        self._shown_s = now
        if self._is_terminal:
            self._show(self.line(result))
        else:
            print(self.line(result), file=self._stream, flush=True)

    def line(self, result: Result) -> str:
        """Tokens and bytes a second of the last seconds; drafts and experts of the whole text."""
        first, last = self._moments[0], self._moments[-1]
        seconds = last.decode_s - first.decode_s
        rate = (last.tokens - first.tokens) / seconds if seconds else 0.0
        bytes_per_s = (last.num_bytes - first.num_bytes) / seconds if seconds else 0.0
        share = f", {bytes_per_s / self._ceiling:.0%} of {self._ceiling / 1e9:.1f}" if self._ceiling else ""
        parts = [
            f"{len(result.tokens)} tokens",
            f"{rate:.1f} tokens/s",
            f"accepted {result.acceptance.accepted} of {result.acceptance.drafted} drafts",
            f"{result.reuse.experts_per_step:.1f} experts a layer and step",
            f"{bytes_per_s / 1e9:.1f} GB/s{share}",
        ]
        return " | ".join(parts)

    def _show(self, line: str) -> None:
        size = shutil.get_terminal_size()
        if self._lines != size.lines:  # keeps text out of the last line, the cursor where it is
            self._lines = size.lines
            self._stream.write(f"\x1bD\x1b[A{SAVE}\x1b[1;{size.lines - 1}r{RESTORE}")
        self._stream.write(f"{SAVE}\x1b[{size.lines};1H{CLEAR}\x1b[2m{line[: size.columns - 1]}\x1b[0m{RESTORE}")
        self._stream.flush()


def live_stats() -> LiveStats:
    """With the ceiling of this machine's profile, if there is one."""
    hardware = profile_of_this_machine()
    return LiveStats(hardware.ram.bytes_per_s(experts.num_threads()) if hardware else 0.0)
