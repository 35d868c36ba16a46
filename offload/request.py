"""What a user asks for: a prompt as tokens, and how to go on from it."""

import difflib
from collections.abc import Callable, Collection, Mapping
from collections.abc import Sequence as Many
from dataclasses import dataclass, field, fields
from numbers import Integral
from typing import Any, TypeVar

from .errors import OptionError
from .sampling import Grammar, SamplingParams

T = TypeVar("T")

DRAFTERS = ("auto", "mtp", "model", "ngram", "none")
AUTO = "auto"


@dataclass(frozen=True)
class GenerationRequest:
    """One answer to be generated. What depends on the model is checked where the request is taken.

    Raises:
        OptionError: a value outside its legal range.
    """

    token_ids: Many[int]  # of the prompt
    max_tokens: int = 256  # at which generation ends; less where the context ends before
    stop: Many[str] = ()  # strings that end the text; they are not part of it
    sampling: SamplingParams = field(default_factory=SamplingParams)
    draft: int | str = AUTO  # tokens to draft in each step, 0 for none, "auto" for as many as pay
    drafter: str = AUTO  # one of DRAFTERS
    explain: Callable[[str], None] | None = None  # called with the terms of each step's decision, a line of text
    grammar: Grammar | None = None  # what the text has to look like

    def __post_init__(self) -> None:
        is_list = isinstance(self.stop, Collection) and not isinstance(self.stop, str)
        if not is_list or not all(isinstance(text, str) for text in self.stop):
            raise OptionError(f"stop is {self.stop!r:.60}; it must be a list of texts")
        if not isinstance(self.max_tokens, Integral) or self.max_tokens < 1:
            raise OptionError(f"max_tokens is {self.max_tokens}; it must be at least 1, a whole number")
        if self.draft != AUTO and not (isinstance(self.draft, Integral) and self.draft >= 0):
            raise OptionError(f"draft is {self.draft}; it must be 0 (off) or more, or {AUTO!r}")
        if self.drafter not in DRAFTERS:
            raise OptionError(f"drafter {self.drafter!r} is unknown; choose one of {', '.join(DRAFTERS)}")
        if self.explain is not None and not callable(self.explain):
            raise OptionError(f"explain is {self.explain!r:.60}; it must be a function that takes a line of text")
        if self.grammar is not None and not isinstance(self.grammar, Grammar):
            raise OptionError(f"grammar is {self.grammar!r:.60}; it must be one, such as Grammar.json_schema(...)")


def sampling_params(**arguments: Any) -> SamplingParams:
    """SamplingParams, with a misspelt name answered by the nearest one."""
    return with_known_names(SamplingParams, arguments)


def with_known_names(record: type[T], arguments: Mapping[str, Any]) -> T:
    """The record with these fields.

    Raises:
        OptionError: a name that is no field of it.
    """
    known = [field.name for field in fields(record)]  # type: ignore[arg-type]
    for name in arguments:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            raise OptionError(f"unknown parameter {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    return record(**arguments)
