"""The text of a GLM answer, as it comes, to reasoning, text and tool calls.

    <think>reasoning</think>
    text
    <tool_call>name
    <arg_key>key</arg_key>
    <arg_value>value</arg_value>
    </tool_call>

GLM-4.5 and 4.6 write newlines between tags, GLM-4.7 does not; both are read. String values stand bare in it and go out
as they come, as pieces of JSON; other values go out when they are complete. Calls that are one object of JSON, as Qwen
writes them, are read too: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`.
"""

import json
from collections.abc import Callable

from .deltas import Delta, ReasoningDelta, TextDelta, ToolArguments, ToolStart
from .schema import STRING, ToolSchemas, as_json, ends_in_string, json_call
from .tags import TagScanner

THINK, END_THINK = "<think>", "</think>"
CALL, END_CALL = "<tool_call>", "</tool_call>"
KEY, END_KEY = "<arg_key>", "</arg_key>"
VALUE, END_VALUE = "<arg_value>", "</arg_value>"


class ChatParser:
    """Reads one answer, from its opening on, which may stand in the prompt.

    Each state is a method that takes what it can from the scanner and returns whether another state goes on.

    Args:
        tools: of the request; without them nothing is taken for a call.
    """

    def __init__(self, tools: ToolSchemas | None = None):
        self.num_calls = 0
        self._tools = tools
        self._scanner = TagScanner()
        self._deltas: list[Delta] = []
        self._state: Callable[[], bool] = self._opening
        self._begun = False  # this stretch of text or reasoning
        self._spaces = ""  # at its end: dropped if a tag follows
        self._name = self._key = self._value = ""
        self._types: frozenset[str] = frozenset()
        self._has_arguments = False

    @property
    def is_reasoning(self) -> bool:
        return self._state == self._reasoning

    def push(self, text: str) -> list[Delta]:
        """What `text` adds; it may end anywhere."""
        self._scanner.push(text)
        while self._state():
            pass
        deltas, self._deltas = self._deltas, []
        return deltas

    def finish(self, complete: bool) -> list[Delta]:
        """What was held back.

        Args:
            complete: the model ended its answer. A call that is cut off stays incomplete JSON, so that nobody runs it.
        """
        rest, self._scanner.rest = self._scanner.rest, ""
        if self._state == self._reasoning:
            self._write(ReasoningDelta, rest)
        elif self._state in (self._opening, self._text):
            self._write(TextDelta, rest)
            if self._spaces:
                self._deltas.append(TextDelta(self._spaces))
        elif self._state == self._in_value and self._types == STRING:
            self._arguments(_escaped(rest))
        elif self._state == self._in_json:
            self._take_json(self._value + rest, "")
        elif complete and self._state == self._in_name and (name := (self._name + rest).strip()):
            self._start_call(name)
            self._end_call()
        elif complete and self._state in (self._in_call, self._before_value):
            self._end_call()
        return self.push("")

    def _opening(self) -> bool:
        start = self._scanner.rest.lstrip()
        for tag, state in ((THINK, self._reasoning), (END_THINK, self._opening)):
            if start.startswith(tag):
                self._scanner.rest = start.removeprefix(tag)
                return self._enter(state)
        if THINK.startswith(start) or END_THINK.startswith(start):
            return False
        return self._enter(self._text)

    def _reasoning(self) -> bool:
        text, tag = self._scanner.take(END_THINK)
        self._write(ReasoningDelta, text)
        return bool(tag) and self._enter(self._opening)  # some think twice

    def _text(self) -> bool:
        text, tag = self._scanner.take(*([CALL] if self._tools else []))
        self._write(TextDelta, text)
        return bool(tag) and self._enter(self._in_name)

    def _in_name(self) -> bool:
        text, tag = self._scanner.take("\n", KEY, END_CALL)
        self._name += text
        name = self._name.strip()
        if name.startswith("{"):
            self._scanner.rest = self._name + tag + self._scanner.rest
            return self._enter(self._in_json)
        if tag == END_CALL and not name:
            return self._enter(self._text)
        if tag and (name or tag == KEY):
            self._start_call(name)
            return self._enter(self._in_call) if tag == "\n" else self._within_call(tag)
        return bool(tag)

    def _in_json(self) -> bool:
        text, tag = self._scanner.take(END_CALL)
        self._value += text
        if tag and ends_in_string(self._value):
            self._value += tag
            return True
        return bool(tag) and self._take_json(self._value, END_CALL)

    def _take_json(self, text: str, tag: str) -> bool:
        """A call that is one object; anything else is text."""
        self._enter(self._text)
        found = json_call(text)
        if found is None:
            self._write(TextDelta, CALL + text + tag)
        else:
            self._start_call(found[0])
            self._arguments(found[1])
        return True

    def _in_call(self) -> bool:
        return self._within_call(self._scanner.take(KEY, CALL, END_CALL)[1])

    def _within_call(self, tag: str) -> bool:
        """Goes on after a tag that stands between arguments."""
        if tag == KEY:
            return self._enter(self._in_key)
        if tag:
            self._end_call()
            return self._enter(self._in_name if tag == CALL else self._text)
        return False

    def _in_key(self) -> bool:
        text, tag = self._scanner.take(END_KEY)
        self._key += text
        return bool(tag) and self._enter(self._before_value)

    def _before_value(self) -> bool:
        tag = self._scanner.take(VALUE, KEY, CALL, END_CALL)[1]
        if tag != VALUE:
            return self._within_call(tag)
        assert self._tools is not None
        key = self._key.strip()
        self._types = self._tools.types(self._name, key)
        self._arguments(("," if self._has_arguments else "{") + json.dumps(key, ensure_ascii=False) + ":")
        self._arguments('"' if self._types == STRING else "")
        self._has_arguments = True
        return self._enter(self._in_value)

    def _in_value(self) -> bool:
        text, tag = self._scanner.take(END_VALUE)
        if self._types == STRING:
            self._arguments(_escaped(text) + ('"' if tag else ""))
        else:
            self._value += text
            self._arguments(as_json(self._value, self._types) if tag else "")
        return bool(tag) and self._enter(self._in_call)

    def _enter(self, state: Callable[[], bool]) -> bool:
        self._state, self._begun, self._spaces = state, False, ""
        if state == self._in_name:
            self._name, self._has_arguments = "", False
        if state in (self._in_key, self._in_json):
            self._key = self._value = ""
        return True

    def _write(self, kind: type[ReasoningDelta] | type[TextDelta], text: str) -> None:
        """Text without the newlines before it and the space before the next tag."""
        text = text if self._begun else text.lstrip("\n")
        self._begun = self._begun or bool(text)
        text = self._spaces + text
        kept = text.rstrip()
        self._spaces = text[len(kept) :]
        if kept:
            self._deltas.append(kind(kept))

    def _start_call(self, name: str) -> None:
        self._name = name
        self._deltas.append(ToolStart(self.num_calls, name))
        self.num_calls += 1

    def _end_call(self) -> None:
        self._arguments("}" if self._has_arguments else "{}")

    def _arguments(self, fragment: str) -> None:
        index, last = self.num_calls - 1, self._deltas[-1] if self._deltas else None
        if isinstance(last, ToolArguments) and last.index == index:
            self._deltas[-1] = ToolArguments(index, last.json + fragment)
        elif fragment:
            self._deltas.append(ToolArguments(index, fragment))


def _escaped(text: str) -> str:
    """`text` within a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]
