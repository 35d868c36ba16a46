"""Requests of Anthropic's protocol. Unknown parameters are ignored."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from .types import MAX_MESSAGES, MAX_STOPS, Many, Model, Speculative, Text, Thinking


class TextBlock(Model):
    type: Literal["text"]
    text: str


class ThinkingBlock(Model):
    type: Literal["thinking"]
    thinking: str


class RedactedBlock(Model):
    type: Literal["redacted_thinking"]


class ToolUseBlock(Model):
    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]


class ToolResultBlock(Model):
    type: Literal["tool_result"]
    tool_use_id: str
    content: str | Many[TextBlock] | None = None
    is_error: bool | None = None


def _kind(block: Any) -> Any:
    return block.get("type") if isinstance(block, dict) else getattr(block, "type", None)


Block = Annotated[
    Annotated[TextBlock, Tag("text")]
    | Annotated[ThinkingBlock, Tag("thinking")]
    | Annotated[RedactedBlock, Tag("redacted_thinking")]
    | Annotated[ToolUseBlock, Tag("tool_use")]
    | Annotated[ToolResultBlock, Tag("tool_result")],
    Discriminator(_kind),
]


class Turn(Model):
    role: Literal["user", "assistant", "system"]
    content: str | Many[Block]


class AnthropicTool(Model):
    name: str
    description: str | None = None
    input_schema: dict[str, Any]
    strict: bool | None = None


class ToolChoice(Model):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class OutputFormat(Model):
    type: Literal["json_schema"]
    json_schema: dict[str, Any] = Field(alias="schema")


class OutputConfig(Model):
    format: OutputFormat | None = None


class CountRequest(Model):
    messages: Many[Turn] = Field(min_length=1, max_length=MAX_MESSAGES)
    model: str | None = None
    system: str | Many[TextBlock] | None = None
    tools: Many[AnthropicTool] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None


class MessagesRequest(CountRequest):
    max_tokens: int = Field(ge=1)
    stop_sequences: Annotated[list[Text], Field(max_length=MAX_STOPS)] | None = None
    stream: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    output_config: OutputConfig | None = None
    speculative: Speculative | None = None
