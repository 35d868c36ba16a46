"""What the text of an answer means, piece by piece."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ReasoningDelta:
    """More of the reasoning."""

    text: str


@dataclass(frozen=True)
class TextDelta:
    """More of the answer itself."""

    text: str


@dataclass(frozen=True)
class ToolStart:
    """A call of a function begins; calls are numbered from 0."""

    index: int
    name: str


@dataclass(frozen=True)
class ToolArguments:
    """More of the arguments of call `index`: the pieces of a finished call are one JSON object."""

    index: int
    json: str


Delta = ReasoningDelta | TextDelta | ToolStart | ToolArguments
