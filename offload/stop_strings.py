"""Ends a text before a stop string, though it may be spread over several tokens."""

from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from .result import TokenEvent


class StopGate:
    """Holds tokens back while their text could be the beginning of a stop string."""

    def __init__(self, stop_strings: Sequence[str]):
        self._stop_strings = [s for s in stop_strings if s]
        self._held: deque[TokenEvent] = deque()
        self.stopped = False

    def push(self, event: TokenEvent) -> list[TokenEvent]:
        """Events that are now safe to show; after a stop string was found, those before it."""
        self._held.append(event)
        text = "".join(e.text for e in self._held)
        found = [i for i in (text.find(s) for s in self._stop_strings) if i >= 0]
        if found:
            self.stopped = True
            return self._release(min(found), cut=True)
        return self._release(len(text) - self._dangling(text))

    def flush(self, rest: str) -> list[TokenEvent]:
        """All that is held, at the end of the text; `rest` is what the last token still owed."""
        events = list(self._held)
        self._held.clear()
        return [*events, TokenEvent(None, rest, False, 1.0)] if rest else events

    def _dangling(self, text: str) -> int:
        """Length of the longest end of the text that begins a stop string."""
        longest = 0
        for stop in self._stop_strings:
            for n in range(min(len(stop) - 1, len(text)), longest, -1):
                if text.endswith(stop[:n]):
                    longest = n
                    break
        return longest

    def _release(self, length: int, cut: bool = False) -> list[TokenEvent]:
        """Takes the tokens within the first `length` characters; with `cut`, also the part of the next one."""
        events = []
        while self._held and len(self._held[0].text) <= length:
            event = self._held.popleft()
            length -= len(event.text)
            events.append(event)
        if cut and self._held:
            event = self._held.popleft()
            events.append(replace(event, text=event.text[:length]))
        return events
