"""From a request's parameters to answers of the serving loop, and their events in the order of their coming."""

import asyncio
import re
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from ..request import AUTO, GenerationRequest, sampling_params
from ..result import TokenEvent
from ..sampling import Grammar
from ..serving import Answer
from .errors import ApiError, log
from .service import Service
from .types import Sampling

SAMPLERS = (
    "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty",
    "penalty_last_n",
)  # fmt: skip
SEEDS = 1 << 64
TOKEN_ID = re.compile(r"[0-9]{1,20}")


@dataclass(frozen=True)
class Piece:
    """A token of one of the choices."""

    choice: int
    event: TokenEvent


@dataclass(frozen=True)
class Ended:
    """A choice is complete."""

    choice: int
    answer: Answer


class AnswerStream:
    """Answers on their way, one for each choice. Close it when nobody reads it any more: its slots are free then."""

    def __init__(self, answers: Sequence[Answer], service: Service, log_fields: dict[str, Any]):
        self.answers, self._service, self._log_fields = answers, service, log_fields
        self._ends_at = time.monotonic() + service.options.request_timeout_s

    def close(self) -> None:
        for answer in self.answers:
            if not answer.has_ended:
                answer.cancel()
        self._log_fields.update(_summary(self.answers))

    async def __aiter__(self) -> AsyncIterator[Piece | Ended]:
        queue: asyncio.Queue[Piece | Ended | Exception] = asyncio.Queue()
        readers = [asyncio.create_task(_read(i, answer, queue)) for i, answer in enumerate(self.answers)]
        try:
            num_open = len(readers)
            while num_open:
                item = await self._next(queue)
                if isinstance(item, Exception):
                    raise item
                if isinstance(item, Ended):
                    num_open -= 1
                    self._check(item.answer)
                yield item
        finally:
            for reader in readers:
                reader.cancel()
            self.close()

    async def _next(self, queue: "asyncio.Queue[Piece | Ended | Exception]") -> Piece | Ended | Exception:
        try:
            return await asyncio.wait_for(queue.get(), max(0.0, self._ends_at - time.monotonic()))
        except TimeoutError:
            limit = self._service.options.request_timeout_s
            raise ApiError(503, f"the answer took longer than {limit:g} s: ask for fewer tokens", "timeout") from None

    def _check(self, answer: Answer) -> None:
        """Counts an answer that has ended by itself."""
        if answer.result.finish_reason == "cancelled":  # not by us: nobody would read it
            raise ApiError(503, "the server shuts down: the answer was cut off", "shutting_down")
        metrics, began = self._service.metrics, answer.submitted_at
        if answer.first_token_at is not None:
            metrics.first_token_s.observe(answer.first_token_at - began)
        if answer.ended_at is not None:
            metrics.answer_s.observe(answer.ended_at - began)


async def _read(choice: int, answer: Answer, queue: "asyncio.Queue[Piece | Ended | Exception]") -> None:
    try:
        async for event in answer:
            queue.put_nowait(Piece(choice, event))
        queue.put_nowait(Ended(choice, answer))
    except Exception as error:
        queue.put_nowait(error)


def _summary(answers: Sequence[Answer]) -> dict[str, Any]:
    """What the log says of answers."""
    results = [answer.result for answer in answers]
    first = [a.first_token_at - a.submitted_at for a in answers if a.first_token_at is not None]
    return {
        "prompt_tokens": sum(result.prompt_tokens for result in results),
        "reused": sum(result.prompt_reused for result in results),
        "tokens": sum(len(result.tokens) for result in results),
        "drafted": sum(result.acceptance.drafted for result in results),
        "accepted": sum(result.acceptance.accepted for result in results),
        "first_token_s": round(min(first), 4) if first else None,
        "finish": ",".join(sorted({result.finish_reason or "cancelled" for result in results})),
    }


async def start(
    request: Request,
    prompts: Sequence[Sequence[int]],
    body: Sampling,
    grammar: Grammar | None = None,
    logprobs: int | None = None,
) -> AnswerStream:
    """Submits each prompt `n` times, with seeds that follow each other.

    Args:
        grammar: what every answer has to look like.
        logprobs: how many of the best tokens' log-probabilities are wanted; None for none at all.

    Raises:
        ApiError: too many choices.
        PromptError, OptionError: an illegal prompt or parameter.
        GrammarError: a grammar that cannot be followed.
        Unavailable: the queue is full, or the server shuts down. Nothing of the request is left running then.
    """
    service: Service = request.app.state.service
    if body.model_extra:
        names = ", ".join(name[:40] for name in list(body.model_extra)[:10])
        log.debug("parameters that mean nothing here: %s", names)
    n = body.n or 1
    if len(prompts) * n > service.options.max_choices:
        raise ApiError(
            400,
            f"{len(prompts)} prompts with n = {n}: at most {service.options.max_choices} answers a request",
            param="n",
        )
    if service.options.log_prompts:
        texts = [service.model.tokenizer.decode(token_ids, skip_special=False) for token_ids in prompts]
        log.info("prompts", extra={"fields": {"prompts": texts}})
    if grammar:
        await run_in_threadpool(service.model.prepare, grammar)
    seed = secrets.randbits(63) if body.seed is None else body.seed % SEEDS
    requests = [
        generation_request(service, token_ids, body, (seed + i) % SEEDS, grammar, logprobs)
        for token_ids in prompts
        for i in range(n)
    ]
    answers: list[Answer] = []
    try:
        for one in requests:
            answers.append(await run_in_threadpool(service.loop.submit, one))
    except Exception:
        for answer in answers:
            answer.cancel()
        raise
    return AnswerStream(answers, service, request.scope["log"])


def generation_request(
    service: Service,
    token_ids: Sequence[int],
    body: Sampling,
    seed: int,
    grammar: Grammar | None = None,
    logprobs: int | None = None,
) -> GenerationRequest:
    """What the body asks for."""
    given = {name: getattr(body, name) for name in SAMPLERS if getattr(body, name) is not None}
    sampling = dict(service.options.sampling) | given
    sampling |= {"seed": seed, "logit_bias": _biases(body), "logprobs": logprobs}
    stop = [body.stop] if isinstance(body.stop, str) else body.stop or []
    draft, drafter = _drafts(service, body)
    return GenerationRequest(
        token_ids,
        max_tokens=min(body.max_tokens or service.options.max_tokens, service.options.max_tokens),
        stop=[text for text in stop if text],
        sampling=sampling_params(**sampling),
        draft=draft,
        drafter=drafter,
        grammar=grammar,
    )


def _drafts(service: Service, body: Sampling) -> tuple[int | str, str]:
    asked = body.speculative
    if asked is None:
        return service.options.draft, service.options.drafter
    if asked.type in ("off", "none"):
        return 0, "none"
    return AUTO if asked.max_tokens is None else asked.max_tokens, asked.type


def _biases(body: Sampling) -> dict[int, float]:
    biases = body.logit_bias or {}
    if not all(TOKEN_ID.fullmatch(key) for key in biases):
        raise ApiError(400, "logit_bias: the keys must be token ids", "invalid_value", "logit_bias")
    return {int(token_id): bias for token_id, bias in biases.items()}
