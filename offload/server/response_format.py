"""What an answer has to look like: `response_format` as a grammar."""

from typing import Any

from ..chat.parser import END_THINK, THINK
from ..sampling import Calls, Grammar
from .errors import ApiError
from .types import ResponseFormat

PARAM = "response_format"


def text_grammar(asked: ResponseFormat | None) -> Grammar | None:
    """What a text has to look like, if anything says so.

    Raises:
        ApiError: what the format needs is missing.
        GrammarError: a schema that is none.
    """
    if asked is None or asked.type == "text":
        return None
    match asked.type:
        case "json_object":
            return Grammar.json_object()
        case "json_schema":
            schema = asked.json_schema and asked.json_schema.json_schema
            return Grammar.json_schema(_given(schema, "json_schema.schema"))
        case "regex":
            return Grammar.regex(_given(asked.pattern, "pattern"))
        case "grammar":
            return Grammar.lark(_given(asked.grammar, "grammar"))


def chat_grammar(asked: ResponseFormat | None, opening: str, calls: Calls | None) -> Grammar | None:
    """The same of an answer that may reason before it, or call tools instead.

    Args:
        opening: of the answer, which stands in the prompt.
        calls: what calls have to look like, if anything says so.
    """
    grammar = text_grammar(asked)
    if calls:
        grammar = (grammar or Grammar.text()).or_calls(calls)
    if grammar is None or END_THINK in opening:
        return grammar
    return grammar.after_reasoning(END_THINK, "" if THINK in opening else THINK)


def _given(value: Any, name: str) -> Any:
    if value is None:
        raise ApiError(400, f"{PARAM}.{name} is missing", "missing_required_parameter", f"{PARAM}.{name}")
    return value
