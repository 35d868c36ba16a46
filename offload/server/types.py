"""Requests of OpenAI's protocol, with what llama.cpp and vLLM add to it. Unknown parameters are ignored.

None of a parameter stands for its default.
"""

from collections.abc import Sized
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field

T = TypeVar("T")
Many = Annotated[list[T], Field(fail_fast=True)]  # one error says enough: a long list must not make as many

MAX_MESSAGES = 10_000
MAX_BIASES = 4096
MAX_STOPS = 16  # strings, of 256 characters
MAX_LOGPROBS = 20


def _few(value: Any) -> Any:
    if isinstance(value, Sized) and len(value) > MAX_BIASES:
        raise ValueError(f"has {len(value)} entries, the most is {MAX_BIASES}")
    return value


def _all(value: Any) -> Any:
    """vLLM says -1 where all tokens are kept."""
    return 0 if type(value) is int and value == -1 else value


def _unlimited(value: Any) -> Any:
    """llama.cpp says -1 where the context alone ends a text."""
    return None if type(value) is int and value == -1 else value


class Model(BaseModel):
    """Types are taken at their word: the text "1" is no number."""

    model_config = ConfigDict(strict=True, extra="allow", populate_by_name=True)


class StreamOptions(Model):
    include_usage: bool | None = None


class Speculative(Model):
    """Who drafts, and how far; neither changes the text."""

    type: Literal["auto", "mtp", "model", "ngram", "none", "off"] = "auto"
    max_tokens: int | None = Field(None, ge=0, le=64, description="drafted a step; as many as pay if absent")


class JsonSchema(Model):
    name: str = ""
    json_schema: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Model):
    type: Literal["text", "json_object", "json_schema", "regex", "grammar"]
    json_schema: JsonSchema | None = None
    pattern: str | None = Field(None, description="of a regex")
    grammar: str | None = Field(None, description="in llguidance's Lark")


Text = Annotated[str, Field(max_length=256)]


class Sampling(Model):
    """How tokens are drawn, and how many."""

    model: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: Annotated[int | None, BeforeValidator(_all)] = None
    min_p: float | None = None
    repetition_penalty: float | None = Field(
        None, validation_alias=AliasChoices("repetition_penalty", "repeat_penalty")
    )
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    penalty_last_n: int | None = Field(None, validation_alias=AliasChoices("penalty_last_n", "repeat_last_n"))
    seed: int | None = None
    logit_bias: Annotated[dict[str, float] | None, BeforeValidator(_few)] = None
    stop: Text | Annotated[list[Text], Field(fail_fast=True, max_length=MAX_STOPS)] | None = None
    max_tokens: Annotated[int | None, Field(ge=1), BeforeValidator(_unlimited)] = None
    n: int | None = Field(None, ge=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    speculative: Speculative | None = None
    response_format: ResponseFormat | None = None
    return_tokens: bool | None = Field(None, description="adds the tokens, and which of them were drafted")


class Message(Model):
    role: Literal["system", "developer", "user", "assistant", "tool"]  # templates pass over others without a word
    content: str | Many[dict[str, Any]] | None = None


class Function(Model):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = Field(None, description="arguments are held to the parameters, else refused")


class Tool(Model):
    type: Literal["function"]
    function: Function


class NamedFunction(Model):
    name: str


class FunctionChoice(Model):
    type: Literal["function"]
    function: NamedFunction


class ToolsChoice(Model):
    mode: Literal["auto", "required"]
    tools: Many[FunctionChoice] = Field(min_length=1)


class AllowedTools(Model):
    type: Literal["allowed_tools"]
    allowed_tools: ToolsChoice


class Thinking(Model):
    type: str = Field(description='"disabled" turns reasoning off')


class Conversation(Model):
    """What the chat template makes a prompt of."""

    messages: Annotated[Many[Message], Field(max_length=MAX_MESSAGES)]
    tools: Many[Tool] | None = None
    tool_choice: Literal["auto", "none", "required"] | FunctionChoice | AllowedTools | None = None
    enable_thinking: bool | None = None
    thinking: Thinking | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class ChatRequest(Conversation, Sampling):
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    parallel_tool_calls: bool | None = Field(None, description="false: one call at the most")
    reasoning_effort: str | None = Field(None, description='"none" turns reasoning off')


class CompletionRequest(Sampling):
    prompt: str | Many[str] | Many[int] | Many[Many[int]]
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)


class TokenizeRequest(Model):
    content: str
    with_pieces: bool | None = None


class DetokenizeRequest(Model):
    tokens: Many[int]
