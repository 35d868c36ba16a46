"""POST /v1/chat/completions."""

import time
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from ..chat import ChatParser, ChatPrompt, ToolSchemas, chat_prompt
from .answer_types import ChatCompletion, streamed_or
from .answers import start
from .body import JsonRoute
from .chat_chunks import chat_chunks, folded_chat, new_id
from .folding import unless_gone
from .response_format import chat_grammar
from .service import Service
from .streaming import openai_stream
from .types import ChatRequest, Conversation

router = APIRouter(route_class=JsonRoute)


@router.post("/v1/chat/completions", responses=streamed_or(ChatCompletion))
async def chat_completions(request: Request, body: ChatRequest) -> Response:
    """Answers a conversation, at once or as server-sent events."""
    service: Service = request.app.state.service
    tokenizer = service.model.tokenizer
    prompt = await run_in_threadpool(prompt_of, service, body)
    token_ids = await run_in_threadpool(tokenizer.encode, prompt.text)
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    if body.max_completion_tokens is not None:
        body.max_tokens = body.max_completion_tokens
    tools = tools_of(body)
    grammar = chat_grammar(body.response_format, prompt.opening, bool(tools))
    stream = await start(request, [token_ids], body, grammar, logprobs)
    parsers = [ChatParser(ToolSchemas(tools) if tools else None) for _ in stream.answers]
    head = {
        "id": new_id("chatcmpl"),
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": service.options.model_name,
    }
    chunks = chat_chunks(
        stream, parsers, prompt.opening, tokenizer, head, bool(body.logprobs), bool(body.return_tokens)
    )
    if body.stream:
        return openai_stream(chunks, stream, body)
    return JSONResponse(await unless_gone(request, stream, folded_chat(chunks)))


def tools_of(body: Conversation) -> list[dict[str, Any]]:
    """The tools that the answer may call."""
    return [] if body.tool_choice == "none" else [tool.model_dump(exclude_unset=True) for tool in body.tools or []]


def prompt_of(service: Service, body: Conversation) -> ChatPrompt:
    """The prompt that stands for the conversation.

    Raises:
        TemplateError, OptionError: the messages, the tools or the choice of a tool.
    """
    match body.tool_choice:
        case None | "auto" | "none":
            forced = None
        case "required":
            forced = ""
        case choice:
            forced = choice.function.name
    arguments = dict(body.chat_template_kwargs or {})
    if body.enable_thinking is not None:
        arguments["enable_thinking"] = body.enable_thinking
    elif body.thinking is not None:
        arguments["enable_thinking"] = body.thinking.type != "disabled"
    elif getattr(body, "reasoning_effort", None) == "none":
        arguments["enable_thinking"] = False
    messages = [_message(message.model_dump(exclude_unset=True)) for message in body.messages]
    return chat_prompt(service.model.chat_template, messages, tools_of(body), forced, arguments=arguments)


def _message(message: dict[str, Any]) -> dict[str, Any]:
    """GLM's template knows no developers: what they say goes to the system."""
    return message | {"role": "system"} if message["role"] == "developer" else message
