"""Calls of tools as a grammar: the names that there are, and arguments held to their schemas."""

import json
from collections.abc import Collection, Mapping, Sequence, Set
from typing import Any

from ..chat_template import ChatTemplate
from ..errors import OptionError
from ..sampling.grammar import JSON_SPACE, Calls
from .parser import CALL, END_CALL, END_KEY, END_VALUE, KEY, VALUE
from .schema import STRING, ToolSchemas, as_object, resolved, types_of

Json = Mapping[str, Any]
SHAPES: dict[str, type] = {"properties": dict, "required": list, "$defs": dict}

NEWLINE = r"/\n?/"  # GLM-4.5 writes them between tags, GLM-4.7 does not
SPACE = f"/{JSON_SPACE}/"
ANY_KEY = r"/[^<]+/"
NOTES = {"title", "description", "default", "examples"}  # keywords that hold nothing
OF_TEXTS = {"type", "minLength", "maxLength"}
OF_ARGUMENTS = {"type", "properties", "required", "additionalProperties", "$defs", "definitions", "$schema"}


def tool_calls(
    template: ChatTemplate,
    tools: Sequence[Json],
    names: Collection[str] | None = None,
    forced: bool = False,
    several: bool = True,
) -> Calls:
    """What calls of these tools look like in the template's form: GLM's tags, or one object of JSON each.

    What cannot be held of a schema is refused for a tool that is `strict`, and passed over for another.

    Args:
        tools: functions in OpenAI's form.
        names: of those that may be called; all if None.
        forced: the answer has to be a call.
        several: there may be more than one.

    Raises:
        OptionError: no tool may be called, or there is none of a name; a strict tool's schema cannot be held.
    """
    known = ToolSchemas(tools).names
    if unknown := [name for name in names or known or ["a call"] if name not in known]:
        raise OptionError(f"tool_choice asks for {unknown[0]!r}; the tools are: {', '.join(known) or 'none'}")
    functions = [tool["function"] for tool in tools if names is None or tool["function"]["name"] in names]
    form = _Tagged if KEY in template.source else _AsJson
    calls = [form(f"tool_{number}", function) for number, function in enumerate(functions)]
    any_call = " | ".join(call.rule for call in calls)
    rules = [f"in_call: ({any_call}) {json.dumps(END_CALL)}", *(rule for call in calls for rule in call.rules())]
    return Calls(CALL, "\n".join(rules), forced, several)


class _AsJson:
    """`{"name": ..., "arguments": {...}}`

    Args:
        rule: name of the rule for this function.
    """

    def __init__(self, rule: str, function: Json):
        self.rule, self._name, self._is_strict = rule, function["name"], bool(function.get("strict"))
        self._parameters = as_object(function.get("parameters") or {"type": "object", "properties": {}})
        if any(not isinstance(self._parameters.get(key, kind()), kind) for key, kind in SHAPES.items()):
            raise OptionError(f"tool {self._name!r}: its parameters are no JSON schema: {self._parameters!r:.200}")

    def rules(self) -> list[str]:
        closed = {"additionalProperties": False} if "properties" in self._parameters else {}
        arguments = self._json({"type": "object", **closed, **self._parameters})
        parts = ("{", '"name"', ":", json.dumps(self._name), ",", '"arguments"', ":")
        head = " ".join(f"{SPACE} {json.dumps(part)}" for part in parts)
        return [f'{self.rule}: {head} {SPACE} {arguments} {SPACE} "}}" {SPACE}']

    def _json(self, schema: Json) -> str:
        options = {"whitespace_pattern": JSON_SPACE, "lenient": not self._is_strict}
        return f"%json {json.dumps({'x-guidance': options} | dict(schema))}"


class _Tagged(_AsJson):
    """The name, then each argument between tags, in the order of the schema."""

    def rules(self) -> list[str]:
        self._check_held("parameters", self._parameters.keys() - OF_ARGUMENTS)
        properties, required = self._parameters.get("properties", {}), self._parameters.get("required", [])
        others = self._parameters.get("additionalProperties", "properties" not in self._parameters)
        rules, parts = list[str](), [json.dumps(self._name), NEWLINE]
        for number, (name, schema) in enumerate(properties.items()):
            rule = f"{self.rule}_{number}"
            rules += self._argument(rule, name, json.dumps(name), schema)
            parts.append(f"({rule} {NEWLINE}){'' if name in required else '?'}")
        if others is not False:
            rule = f"{self.rule}_other"
            rules += self._argument(rule, "additionalProperties", ANY_KEY, others)
            parts.append(f"({rule} {NEWLINE})*")
        return [f"{self.rule}: {' '.join(parts)}", *rules]

    def _argument(self, rule: str, name: str, key: str, schema: Any) -> list[str]:
        schema = resolved(schema, self._parameters)
        value = self._value(name, schema)
        head = f"{rule}: {json.dumps(KEY)} {key} {json.dumps(END_KEY)} {NEWLINE} {json.dumps(VALUE)}"
        if value.startswith("/"):
            return [f"{head} {rule}_text", f"{rule}_text[suffix={json.dumps(END_VALUE)}]: {value}"]
        return [f"{head} {value} {json.dumps(END_VALUE)}"]

    def _value(self, name: str, schema: Json) -> str:
        """Texts stand bare; a regular expression is for all that comes before the closing tag."""
        types, held = types_of(schema, self._parameters), schema.keys() - NOTES
        if types == STRING:
            choices = schema.get("enum", [schema["const"]] if "const" in schema else None)
            if isinstance(choices, list):
                return f"({' | '.join(json.dumps(choice) for choice in choices if isinstance(choice, str))})"
            self._check_held(f"text {name!r}", held - OF_TEXTS)
            least, most = schema.get("minLength", 0), schema.get("maxLength", "")
            return rf"/(?s:.{{{least},{most}}})/"
        if not held or ("string" in types and held <= {"type"}) or _is_any_of_types(schema, held):
            return "/(?s:.*)/"
        definitions = {key: self._parameters[key] for key in ("$defs", "definitions") if key in self._parameters}
        return self._json(definitions | dict(schema))

    def _check_held(self, what: str, keywords: Set[str]) -> None:
        if self._is_strict and (rest := keywords - NOTES):
            raise OptionError(
                f"tool {self._name!r}: {', '.join(sorted(rest))} of the {what} cannot be held with this model: leave "
                "it out, or set strict to false"
            )


def _is_any_of_types(schema: Json, held: Set[str]) -> bool:
    """Whether a text is always right: one of the types that are left open is a text."""
    branches = schema.get("anyOf")
    if held != {"anyOf"} or not isinstance(branches, list):
        return False
    open_types = [branch.get("type") for branch in branches if as_object(branch).keys() - NOTES == {"type"}]
    return len(open_types) == len(branches) and "string" in open_types
