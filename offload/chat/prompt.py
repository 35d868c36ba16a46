"""Messages and tools to a prompt, and the opening of the answer that stands at its end."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..chat_template import ChatTemplate
from ..errors import OptionError
from .parser import CALL, END_THINK, THINK
from .schema import ToolSchemas

ASSISTANT = "<|assistant|>"
NO_THOUGHTS = THINK + END_THINK
GIVEN = ("self", "messages", "tools", "add_generation_prompt")  # variables of the template that are not for users


@dataclass(frozen=True)
class ChatPrompt:
    """What the model continues.

    Attributes:
        text: the whole prompt.
        opening: its end, which belongs to the answer: a `ChatParser` reads it first.
    """

    text: str
    opening: str


def chat_prompt(
    template: ChatTemplate,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] = (),
    forced: str | None = None,
    answer: str = "",
    arguments: Mapping[str, Any] | None = None,
) -> ChatPrompt:
    """The prompt of the next answer.

    Args:
        tools: functions in OpenAI's form.
        forced: the answer is a call of this function, of any function if it is empty; None leaves it to the model.
        answer: how the answer begins, if that is given; it then has no reasoning.
        arguments: variables of the template, such as enable_thinking.

    Raises:
        TemplateError: the template refuses the messages or the tools.
        OptionError: `forced` names a function that is not among the tools, or `arguments` what is given already.
    """
    names = ToolSchemas(tools).names
    if forced is not None and (forced not in names if forced else not names):
        raise OptionError(f"tool_choice asks for {forced or 'a call'!r}; the tools are: {', '.join(names) or 'none'}")
    given = forced is not None or answer
    variables = dict(arguments or {}) | ({"enable_thinking": False} if given else {})
    if taken := [name for name in variables if name in GIVEN]:
        raise OptionError(f"{taken[0]!r} cannot be given to the chat template as a further argument")
    text = template.render(messages, list(tools) or None, **variables)
    if forced is not None and ASSISTANT not in text:
        raise OptionError("tool_choice can ask for a call from GLM models only: set it to auto")
    start = text.rfind(ASSISTANT) + len(ASSISTANT) if ASSISTANT in text else len(text)
    opening = text[start:]
    if given:
        newline = "\n" if NO_THOUGHTS in opening else ""  # GLM-4.7 has a bare </think> here, and no newlines
        call = CALL + forced + (newline if forced else "") if forced is not None else ""
        opening = opening.rstrip("\n") + newline + answer + call
    return ChatPrompt(text[:start] + opening, opening)
