"""Finds tags in a text that comes in pieces."""


class TagScanner:
    """Text in, text up to a tag out; what could be the beginning of a tag is held back."""

    def __init__(self) -> None:
        self.rest = ""  # not taken yet

    def push(self, text: str) -> None:
        self.rest += text

    def take(self, *tags: str) -> tuple[str, str]:
        """The text before the first of `tags` and that tag; without one, the text that lies before any and ""."""
        found = [(self.rest.index(tag), tag) for tag in tags if tag in self.rest]
        if found:
            place, tag = min(found, key=lambda item: item[0])
            before, self.rest = self.rest[:place], self.rest[place + len(tag) :]
            return before, tag
        place = len(self.rest) - max((_overlap(self.rest, tag) for tag in tags), default=0)
        before, self.rest = self.rest[:place], self.rest[place:]
        return before, ""


def _overlap(text: str, tag: str) -> int:
    """Length of the longest end of `text` that begins `tag`."""
    longest = min(len(tag) - 1, len(text))
    return next((n for n in range(longest, 0, -1) if text.endswith(tag[:n])), 0)
