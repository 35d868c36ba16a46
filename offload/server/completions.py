"""POST /v1/completions: a text goes on."""

import time
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from ..tokenizer import Tokenizer
from .answer_types import Completion, streamed_or
from .answers import AnswerStream, Ended, start
from .body import JsonRoute
from .chat_chunks import Json, new_id
from .folding import unless_gone
from .response_format import text_grammar
from .service import Service
from .streaming import openai_stream
from .tokens import text_logprobs, token_record
from .types import CompletionRequest
from .usage import timings, usage

router = APIRouter(route_class=JsonRoute)


@router.post("/v1/completions", responses=streamed_or(Completion))
async def completions(request: Request, body: CompletionRequest) -> Response:
    """Continues one or several prompts, at once or as server-sent events."""
    service: Service = request.app.state.service
    tokenizer = service.model.tokenizer
    prompts = await run_in_threadpool(_prompts, tokenizer, body)
    stream = await start(request, prompts, body, text_grammar(body.response_format), body.logprobs)
    head = {
        "id": new_id("cmpl"),
        "object": "text_completion",
        "created": int(time.time()),
        "model": service.options.model_name,
    }
    echoes = [tokenizer.decode(prompt) for prompt in prompts for _ in range(body.n or 1)] if body.echo else []
    chunks = _chunks(stream, tokenizer, head, echoes, len(prompts), bool(body.return_tokens))
    if body.stream:
        return openai_stream(chunks, stream, body)
    return JSONResponse(await unless_gone(request, stream, _folded(chunks)))


def _prompts(tokenizer: Tokenizer, body: CompletionRequest) -> list[list[int]]:
    """The prompts as tokens."""
    match body.prompt:
        case str():
            return [tokenizer.encode(body.prompt)]
        case [str(), *_]:
            return [tokenizer.encode(str(text)) for text in body.prompt]
        case [list(), *_]:
            return [list(token_ids) for token_ids in body.prompt if isinstance(token_ids, list)]
        case token_ids:
            return [[token_id for token_id in token_ids if isinstance(token_id, int)]]


async def _chunks(
    stream: AnswerStream, tokenizer: Tokenizer, head: Json, echoes: Sequence[str], num_prompts: int, tokens: bool
) -> AsyncIterator[Json]:
    """Pieces of text in OpenAI's form; the last one holds the usage.

    Args:
        echoes: texts that the choices begin with, if any.
        tokens: add the tokens themselves.
    """
    offsets = [0] * len(stream.answers)
    for i, text in enumerate(echoes):
        offsets[i] = len(text)
        yield _chunk(head, i, text)
    async for item in stream:
        i = item.choice
        if isinstance(item, Ended):
            reason = item.answer.result.finish_reason
            yield _chunk(head, i, "", finish_reason=reason) | {"timings": timings(item.answer)}
            continue
        more: Json = {"tokens": [token_record(item.event)]} if tokens else {}
        if found := text_logprobs(item.event, tokenizer, offsets[i]):
            more["logprobs"] = found
        offsets[i] += len(item.event.text)
        if item.event.text or more:
            yield _chunk(head, i, item.event.text, **more)
    yield head | {"choices": [], "usage": usage(stream.answers, num_prompts)}


def _chunk(head: Json, choice: int, text: str, **more: Any) -> Json:
    return head | {"choices": [{"index": choice, "text": text, "logprobs": None, "finish_reason": None} | more]}


async def _folded(chunks: AsyncIterable[Json]) -> Json:
    """The one answer that the chunks make."""
    choices: dict[int, Json] = {}
    whole: Json = {}
    async for chunk in chunks:
        whole |= {key: value for key, value in chunk.items() if key != "choices"}
        for part in chunk["choices"]:
            choice = choices.setdefault(part["index"], {"index": part["index"], "text": [], "logprobs": None})
            choice["text"].append(part["text"])
            choice["finish_reason"] = part["finish_reason"]
            if part["logprobs"]:
                choice["logprobs"] = choice["logprobs"] or {name: [] for name in part["logprobs"]}
                for name, values in part["logprobs"].items():
                    choice["logprobs"][name] += values
            if "tokens" in part:
                choice.setdefault("tokens", []).extend(part["tokens"])
    folded = [choices[i] | {"text": "".join(choices[i]["text"])} for i in sorted(choices)]
    return whole | {"choices": folded}
