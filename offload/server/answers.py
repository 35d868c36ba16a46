"""From a request's parameters to answers of the serving loop, and their events in the order of their coming."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.concurrency import run_in_threadpool

from ..request import AUTO, GenerationRequest, sampling_params
from ..result import TokenEvent
from ..sampling import Grammar
from ..serving import Answer
from .errors import ApiError
from .service import Service
from .types import Sampling

SAMPLERS = (
    "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty",
    "penalty_last_n",
)  # fmt: skip
SEEDS = 1 << 64


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

    def __init__(self, answers: Sequence[Answer], service: Service):
        self.answers, self._service = answers, service
        self._ends_at = time.monotonic() + service.options.request_timeout_s

    def close(self) -> None:
        for answer in self.answers:
            if not answer.has_ended:
                answer.cancel()

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
                    self._count(item.answer)
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

    def _count(self, answer: Answer) -> None:
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


async def start(
    service: Service, prompts: Sequence[Sequence[int]], body: Sampling, grammar: Grammar | None = None, **changes: Any
) -> AnswerStream:
    """Submits each prompt `n` times, with seeds that follow each other.

    Args:
        grammar: what every answer has to look like.
        **changes: fields of `SamplingParams` that the body does not name.

    Raises:
        ApiError: too many choices.
        PromptError, OptionError: an illegal prompt or parameter.
        GrammarError: a grammar that cannot be followed.
        Unavailable: the queue is full, or the server shuts down. Nothing of the request is left running then.
    """
    n = body.n or 1
    if len(prompts) * n > service.options.max_choices:
        raise ApiError(
            400,
            f"{len(prompts)} prompts with n = {n}: at most {service.options.max_choices} answers a request",
            param="n",
        )
    if grammar:
        await run_in_threadpool(service.model.prepare, grammar)
    seed = secrets.randbits(63) if body.seed is None else body.seed % SEEDS
    requests = [
        generation_request(service, token_ids, body, (seed + i) % SEEDS, changes, grammar)
        for token_ids in prompts
        for i in range(n)
    ]
    answers: list[Answer] = []
    try:
        for request in requests:
            answers.append(service.loop.submit(request))
    except Exception:
        for answer in answers:
            answer.cancel()
        raise
    return AnswerStream(answers, service)


def generation_request(
    service: Service,
    token_ids: Sequence[int],
    body: Sampling,
    seed: int,
    changes: dict[str, Any],
    grammar: Grammar | None = None,
) -> GenerationRequest:
    """What the body asks for."""
    given = {name: getattr(body, name) for name in SAMPLERS if getattr(body, name) is not None}
    sampling = dict(service.options.sampling) | given | changes | {"seed": seed, "logit_bias": _biases(body)}
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
    try:
        return {int(token_id): bias for token_id, bias in (body.logit_bias or {}).items()}
    except ValueError:
        raise ApiError(400, "logit_bias: the keys must be token ids", "invalid_value", "logit_bias") from None
