"""Texts to tokens and back, and what the chat template makes of messages."""

from typing import Any

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool

from .body import JsonRoute
from .chat import prompt_of
from .types import Conversation, DetokenizeRequest, TokenizeRequest

router = APIRouter(route_class=JsonRoute)


@router.post("/tokenize")
async def tokenize(request: Request, body: TokenizeRequest) -> dict[str, Any]:
    """Tokens of a text; with their own texts where `with_pieces` asks for them."""
    tokenizer = request.app.state.service.model.tokenizer
    ids = await run_in_threadpool(tokenizer.encode, body.content)
    if not body.with_pieces:
        return {"tokens": ids}
    return {"tokens": [{"id": i, "piece": tokenizer.decode([i], skip_special=False)} for i in ids]}


@router.post("/detokenize")
async def detokenize(request: Request, body: DetokenizeRequest) -> dict[str, str]:
    """The text of tokens."""
    return {"content": request.app.state.service.model.tokenizer.decode(body.tokens, skip_special=False)}


@router.post("/apply-template")
async def apply_template(request: Request, body: Conversation) -> dict[str, str]:
    """The prompt that stands for a conversation."""
    return {"prompt": (await run_in_threadpool(prompt_of, request.app.state.service, body)).text}
