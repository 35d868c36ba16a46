"""Anthropic's conversations in the form that chat templates read, which is OpenAI's."""

from typing import Any

from ..chat import ChatPrompt, chat_prompt
from ..chat_template import ChatTemplate
from .anthropic_types import (
    AnthropicTool,
    CountRequest,
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
        ApiError: a conversation, or a choice of a tool, that means nothing.
        TemplateError, OptionError: the template refuses it.
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
    thinks = body.thinking is not None and body.thinking.type != "disabled"
    return chat_prompt(template, messages, tools_of(body), _forced(body), answer, {"enable_thinking": thinks})


def tools_of(body: CountRequest) -> list[Json]:
    """The tools that the answer may call, in OpenAI's form."""
    is_off = body.tool_choice is not None and body.tool_choice.type == "none"
    return [] if is_off else [_function(tool) for tool in body.tools or []]


def _function(tool: AnthropicTool) -> Json:
    described = {"description": tool.description} if tool.description else {}
    return {"type": "function", "function": {"name": tool.name, **described, "parameters": tool.input_schema}}


def _forced(body: CountRequest) -> str | None:
    match body.tool_choice:
        case None:
            return None
        case choice if choice.type == "tool":
            if not choice.name:
                raise ApiError(400, "tool_choice: the type tool needs the name of one", param="tool_choice")
            return choice.name
        case choice:
            return "" if choice.type == "any" else None


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
