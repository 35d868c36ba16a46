"""Tokens of an answer, one by one: their text, whether they were drafted, their log-probabilities."""

from typing import Any

from ..result import TokenEvent
from ..tokenizer import Tokenizer

LEAST = -9999.0  # instead of minus infinity, which JSON does not have


def token_record(event: TokenEvent) -> dict[str, Any]:
    """What `return_tokens` asks for."""
    return {"id": event.token_id, "text": event.text, "drafted": event.drafted}


def chat_logprobs(event: TokenEvent, tokenizer: Tokenizer) -> dict[str, Any] | None:
    """In the form of chat completions."""
    found = event.logprobs
    if event.token_id is None or found is None:
        return None
    top = [_named(tokenizer, token_id, value) for token_id, value in found.top]
    return _named(tokenizer, event.token_id, found.token) | {"top_logprobs": top}


def text_logprobs(event: TokenEvent, tokenizer: Tokenizer, offset: int) -> dict[str, Any] | None:
    """In the form of completions; `offset` is where the token's text begins."""
    found = event.logprobs
    if event.token_id is None or found is None:
        return None
    top = {_text(tokenizer, token_id): max(value, LEAST) for token_id, value in found.top}
    return {
        "tokens": [_text(tokenizer, event.token_id)],
        "token_logprobs": [max(found.token, LEAST)],
        "top_logprobs": [top],
        "text_offset": [offset],
    }


def _named(tokenizer: Tokenizer, token_id: int, logprob: float) -> dict[str, Any]:
    return {
        "token": _text(tokenizer, token_id),
        "logprob": max(logprob, LEAST),
        "bytes": list(tokenizer.token_bytes(token_id)),
    }


def _text(tokenizer: Tokenizer, token_id: int) -> str:
    return tokenizer.token_bytes(token_id).decode(errors="replace")
