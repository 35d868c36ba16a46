"""What an answer may look like: a JSON schema, a regular expression or a Lark grammar, in llguidance's terms."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from llguidance import LLMatcher

from ..errors import GrammarError

# Between the parts of a JSON text, as llama.cpp has it: a model that is unsure could go on with spaces for ever.
JSON_SPACE = r"( |\n{1,2}[ \t]{0,20})?"
NEWLINES = r"/\n{0,2}/"
ANY_TEXT = "/(?s:.*)/"
ENCLOSED = "%s[suffix=%s]: /(?s:.*)/"  # any text, up to the first such end


@dataclass(frozen=True)
class Calls:
    """Calls of tools, which may follow each other.

    Attributes:
        begin: what each begins with, such as "<tool_call>".
        rules: Lark; the rule `in_call` is what comes after that.
        forced: nothing but calls is allowed.
        several: there may be more than one.
    """

    begin: str
    rules: str
    forced: bool = False
    several: bool = True


@dataclass(frozen=True)
class Grammar:
    """Text that may be generated; what it holds is checked when it meets a vocabulary.

    JSON schemas: https://github.com/guidance-ai/llguidance/blob/main/docs/json_schema.md; keywords that cannot be held
    are refused, not ignored. Lark: https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md.
    """

    kind: str  # for messages
    answer: Mapping[str, Any] | None  # one of llguidance's grammars; None: any text
    reasoning: tuple[str, str] | None = None  # what begins and ends it; None: there is none
    calls: Calls | None = None  # None: there are none

    @classmethod
    def text(cls) -> Self:
        """Any text."""
        return cls("form of calls", None)

    @classmethod
    def json_object(cls) -> Self:
        """Any JSON object."""
        return cls.json_schema({"type": "object"})

    @classmethod
    def json_schema(cls, schema: str | bool | Mapping[str, Any]) -> Self:
        """JSON that a schema, or its text, describes.

        Raises:
            GrammarError: text that is no JSON, or JSON that is no schema.
        """
        if isinstance(schema, str):
            try:
                schema = json.loads(schema)
            except ValueError as error:
                raise GrammarError(f"the JSON schema is not valid JSON: {error}") from None
        if not isinstance(schema, bool | Mapping):
            raise GrammarError(f"the JSON schema is {json.dumps(schema)[:80]}; it must be an object, true or false")
        if isinstance(schema, Mapping):
            schema = {"x-guidance": {"whitespace_pattern": JSON_SPACE}} | dict(schema)
        return cls("JSON schema", {"json_schema": schema})

    @classmethod
    def regex(cls, pattern: str) -> Self:
        """Text that a regular expression (Rust's regex syntax) matches from end to end."""
        return cls("regular expression", json.loads(LLMatcher.grammar_from_regex(pattern))["grammars"][0])

    @classmethod
    def lark(cls, text: str) -> Self:
        """Text of a Lark grammar, llguidance's variant."""
        return cls("Lark grammar", {"lark_grammar": text})

    def after_reasoning(self, end: str, begin: str = "") -> Self:
        """The same answer behind free text that ends with `end`, such as "</think>".

        Args:
            begin: what the reasoning begins with, which may then be left out; empty: it has begun already.
        """
        return replace(self, reasoning=(begin, end))

    def or_calls(self, calls: Calls) -> Self:
        """The same answer, or in its place calls of tools; beside any text, calls within it."""
        return replace(self, calls=calls)

    @property
    def definition(self) -> str:
        """All of it, as llguidance reads it."""
        if not self.reasoning and not self.calls:
            return json.dumps({"grammars": [dict(self.answer or {"lark_grammar": f"start: {ANY_TEXT}"})]})
        start, rules = "", list[str]()
        if self.reasoning:
            begin, end = (json.dumps(tag) for tag in self.reasoning)
            start = f"({NEWLINES} {begin} reasoning)?" if self.reasoning[0] else "reasoning"
            rules.append(ENCLOSED % ("reasoning", end))
        rules += self._with_calls(self.calls) if self.calls else ["body: @answer"]
        before = {"lark_grammar": "\n".join([f"start: {start} {NEWLINES} body", *rules])}
        return json.dumps({"grammars": [before, *([{**self.answer, "name": "answer"}] if self.answer else [])]})

    def _with_calls(self, calls: Calls) -> list[str]:
        """Rules of the `body`, which is what follows the reasoning."""
        begin, more = json.dumps(calls.begin), f"({NEWLINES} call)*" if calls.several else ""
        call = f"call: {begin} in_call"
        if calls.forced:
            return [f"body: call {more}", call, calls.rules]
        if self.answer:
            return [f"body: @answer | call {more}", call, calls.rules]
        body = "(before in_call)* text" if calls.several else f"text | before in_call {NEWLINES}"
        return [f"body: {body}", f"text: {ANY_TEXT}", ENCLOSED % ("before", begin), calls.rules]
