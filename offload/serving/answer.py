"""An answer on its way: made in the loop's thread, read in any other, or in an asyncio event loop."""

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from functools import partial
from typing import Any

from ..request import GenerationRequest
from ..result import Result, TokenEvent
from ..sequence import Sequence
from ..transcript import Transcript

CANCELLED = "cancelled"  # as a finish_reason


class Answer:
    """Events of one request, in order, each to be read once.

    Iterate over it (blocking), iterate asynchronously, or wait for the whole: `finish()`, `await answer`. Each raises
    what ended the answer if that was an error. `result` grows along.
    """

    def __init__(self, request: GenerationRequest, sequence: Sequence, on_cancel: Callable[[], None]):
        self.request, self.sequence = request, sequence
        self.submitted_at = time.monotonic()
        self.began_at: float | None = None  # when it got its slot
        self.first_token_at: float | None = None
        self.ended_at: float | None = None
        self.error: Exception | None = None
        self.transcript: Transcript | None = None  # once it has a slot
        self.is_cancelled = False
        self._nothing = Result(prompt_tokens=len(sequence.token_ids))
        self._on_cancel = on_cancel
        self._changed = threading.Condition()
        self._events: deque[TokenEvent] = deque()
        self._wakers: list[Callable[[], object]] = []

    @property
    def result(self) -> Result:
        return self.transcript.result if self.transcript else self._nothing

    @property
    def has_ended(self) -> bool:
        """Nothing is added any more; there may still be events to read."""
        return self.ended_at is not None

    def cancel(self) -> None:
        """Wants no more of it: it ends before the next step, and its slot is free then."""
        self.is_cancelled = True
        self._on_cancel()

    def finish(self) -> Result:
        """Waits for the end.

        Raises:
            Exception: what ended the answer, if it was an error.
        """
        for _ in self:
            pass
        return self.result

    def __iter__(self) -> Iterator[TokenEvent]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._events or self.has_ended)
                event = self._next()
            if event is None:
                return
            yield event

    async def __aiter__(self) -> AsyncIterator[TokenEvent]:
        loop = asyncio.get_running_loop()
        while True:
            ready = asyncio.Event()
            with self._changed:
                if not (is_there := bool(self._events) or self.has_ended):
                    self._wakers.append(partial(loop.call_soon_threadsafe, ready.set))
                event = self._next() if is_there else None
            if not is_there:
                await ready.wait()
            elif event is None:
                return
            else:
                yield event

    def __await__(self) -> Generator[Any, None, Result]:
        return self._finish_async().__await__()

    async def _finish_async(self) -> Result:
        async for _ in self:
            pass
        return self.result

    def _next(self) -> TokenEvent | None:
        if self._events:
            return self._events.popleft()
        if self.error is not None:
            raise self.error
        return None

    def begin(self, transcript: Transcript) -> None:
        """It got its slot: the loop's side."""
        self.transcript, self.began_at = transcript, time.monotonic()

    def put(self, events: list[TokenEvent]) -> None:
        """Adds events: the loop's side."""
        if not events:
            return
        if self.first_token_at is None:
            self.first_token_at = time.monotonic()
        with self._changed:
            self._events.extend(events)
            self._wake()

    def end(self, error: Exception | None = None) -> None:
        """Nothing will be added: the loop's side. Without an error, and if nothing else ended it, it was cancelled."""
        with self._changed:
            self.error, self.ended_at = error, time.monotonic()
            if error is None and not self.result.finish_reason:
                self.result.finish_reason = CANCELLED
            self._wake()

    def _wake(self) -> None:
        self._changed.notify_all()
        wakers, self._wakers = self._wakers, []
        for wake in wakers:
            try:
                wake()
            except RuntimeError:  # its event loop was closed: nobody reads there any more
                self.is_cancelled = True
