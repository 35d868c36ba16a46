"""Anthropic's conversations in the form that chat templates read, which is OpenAI's."""

from typing import Any

from ..chat import ChatPrompt, chat_prompt, tool_calls
from ..chat_template import ChatTemplate
from ..sampling import Calls
from .anthropic_types import (
    AnthropicTool,
    CountRequest,
    MessagesRequest,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    Turn,
)  # fmt: skip
from .errors import ApiError

Json = dict[str, Any]


def prompt_of(template: ChatTemplate, body: CountRequest) -> ChatPrompt:
    """The prompt that stands for the conversation; if that ends with the assistant, the answer goes on from there.

    Raises:
        ApiError: a conversation that means nothing.
        TemplateError: the template refuses it.
    """
    turns, answer = list(body.messages), ""
    if turns[-1].role == "assistant":
        answer = _text(turns.pop())
    messages = [message for turn in turns for message in _messages(turn)]
    if body.system:
        text = body.system if isinstance(body.system, str) else "\n".join(block.text for block in body.system)
        messages.insert(0, {"role": "system", "content": text})
    if not messages:
        raise ApiError(400, "messages: there is nothing to answer", param="messages")
    thinks = body.thinking is not None and body.thinking.type != "disabled" and not _is_forced(body)
    return chat_prompt(template, messages, tools_of(body), answer, {"enable_thinking": thinks})


def tools_of(body: CountRequest) -> list[Json]:
    """The tools that the answer may call, in OpenAI's form."""
    is_off = body.tool_choice is not None and body.tool_choice.type == "none"
    return [] if is_off else [_function(tool) for tool in body.tools or []]


def _function(tool: AnthropicTool) -> Json:
    described = {"description": tool.description} if tool.description else {}
    strict = {"strict": True} if tool.strict else {}
    function = {"name": tool.name, **described, "parameters": tool.input_schema, **strict}
    return {"type": "function", "function": function}


def calls_of(template: ChatTemplate, body: MessagesRequest) -> Calls | None:
    """What calls have to look like, where the request asks for more than the model's own will.

    Raises:
        ApiError, OptionError: a choice of a tool that is not there; the schema of a strict tool that cannot be held.
    """
    tools, choice = tools_of(body), body.tool_choice
    if choice and choice.type == "tool" and not choice.name:
        raise ApiError(400, "tool_choice: the type tool needs the name of one", param="tool_choice")
    names = [choice.name] if choice and choice.name and choice.type == "tool" else None
    is_single = choice is not None and bool(choice.disable_parallel_tool_use)
    is_strict = any(tool["function"].get("strict") for tool in tools)
    has_form = body.output_config is not None and body.output_config.format is not None
    if _is_forced(body) or (tools and (is_strict or is_single or has_form)):
        return tool_calls(template, tools, names, _is_forced(body), not is_single)
    return None


def _is_forced(body: CountRequest) -> bool:
    """Whether the answer has to be a call."""
    return body.tool_choice is not None and body.tool_choice.type in ("any", "tool")


def _messages(turn: Turn) -> list[Json]:
    """A turn as messages: results of tools, which come first, are messages of their own."""
    if isinstance(turn.content, str):
        return [{"role": turn.role, "content": turn.content}]
    results = [
        {"role": "tool", "tool_call_id": block.tool_use_id, "content": _result(block)}
        for block in turn.content
        if isinstance(block, ToolResultBlock)
    ]
    message: Json = {"role": turn.role, "content": _text(turn)}
    thoughts = "".join(block.thinking for block in turn.content if isinstance(block, ThinkingBlock))
    calls = [
        {"id": block.id, "type": "function", "function": {"name": block.name, "arguments": block.input}}
        for block in turn.content
        if isinstance(block, ToolUseBlock)
    ]
    if thoughts:
        message["reasoning_content"] = thoughts
    if calls:
        message["tool_calls"] = calls
    return [*results, message] if message["content"] or calls or not results else results


def _text(turn: Turn) -> str:
    if isinstance(turn.content, str):
        return turn.content
    return "".join(block.text for block in turn.content if isinstance(block, TextBlock))


def _result(block: ToolResultBlock) -> str:
    content = block.content or ""
    text = content if isinstance(content, str) else "".join(part.text for part in content)
    return f"Error: {text}" if block.is_error else text
