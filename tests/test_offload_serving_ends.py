"""Loops that are closed, and errors: of one request, of a step, of the loop itself."""

import os
import signal
import threading
import warnings
from typing import Any

import pytest
from serving import PROMPTS, request

import offload
from offload.errors import Closing, EngineFailed
from offload.serving import Answer, ServingLoop


def test_closing_lets_running_answers_finish_in_time(chunked: offload.LanguageModel) -> None:
    loop = chunked.serve(max_waiting=2)
    running = [loop.submit(request(chunked, max_tokens=30)) for _ in range(4)]
    waiting = loop.submit(request(chunked, max_tokens=30))
    closing = threading.Thread(target=loop.close, args=(60.0,))
    next(iter(running[0]))
    closing.start()
    assert [answer.finish().finish_reason for answer in running] == ["length"] * 4
    with pytest.raises(Closing, match="was not begun"):
        waiting.finish()
    closing.join()
    with pytest.raises(Closing, match="shutting down"):
        loop.submit(request(chunked))


def test_closing_cuts_what_takes_longer(chunked: offload.LanguageModel) -> None:
    loop = chunked.serve()
    answer = loop.submit(request(chunked, max_tokens=450, draft=0))
    next(iter(answer))
    loop.close(grace_s=0.05)
    assert answer.finish().finish_reason == "cancelled"
    assert 0 < len(answer.result.tokens) < 450


def test_an_error_in_one_sequence_harms_no_other(
    short_loop: ServingLoop, chunked: offload.LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(line: str) -> None:
        raise RuntimeError("this one only")

    expected = short_loop.submit(request(chunked, PROMPTS[1], max_tokens=20)).finish().tokens
    bad = short_loop.submit(request(chunked, PROMPTS[0], max_tokens=20, explain=refuse))
    sampled = short_loop.submit(request(chunked, PROMPTS[2], max_tokens=20))
    good = short_loop.submit(request(chunked, PROMPTS[1], max_tokens=20))
    monkeypatch.setattr(type(sampled.sequence.sampler), "draw", _failing_for(sampled))
    with pytest.raises(RuntimeError, match="this one only"):
        bad.finish()
    with pytest.raises(ZeroDivisionError):
        sampled.finish()
    assert good.finish().tokens == expected
    assert {slot.state for slot in short_loop.slots()} == {"free"}


def _failing_for(answer: Answer) -> Any:
    sampler, draw = answer.sequence.sampler, type(answer.sequence.sampler).draw

    def failing(self: Any, *arguments: Any) -> Any:
        if self is sampler:
            raise ZeroDivisionError
        return draw(self, *arguments)

    return failing


def test_an_error_of_the_engine_ends_all_and_the_loop_goes_on(
    short_loop: ServingLoop, chunked: offload.LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = short_loop.submit(request(chunked, PROMPTS[1], max_tokens=20)).finish().tokens

    def fail(*arguments: Any) -> None:
        raise MemoryError("no more")

    with monkeypatch.context() as patch:
        patch.setattr(short_loop._batch.engine.drafter.passes, "observe", fail)  # type: ignore[attr-defined]
        answers = [short_loop.submit(request(chunked, p, max_tokens=20)) for p in PROMPTS]
        for answer in answers:
            with pytest.raises(EngineFailed, match="no more"):
                answer.finish()
    assert short_loop.submit(request(chunked, PROMPTS[1], max_tokens=20)).finish().tokens == expected


def test_a_dead_loop_says_so(chunked: offload.LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*arguments: Any) -> None:
        raise SystemExit

    loop = chunked.serve()
    monkeypatch.setattr(loop._batch.engine, "step", die)
    with pytest.raises(EngineFailed, match="SystemExit"):
        loop.submit(request(chunked)).finish()
    loop.close()
    with pytest.raises(EngineFailed, match="has died: SystemExit"):
        loop.submit(request(chunked))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_is_told_that_its_loop_stayed_behind(short_loop: ServingLoop) -> None:
    model = short_loop.model
    expected = short_loop.submit(request(model, max_tokens=5)).finish().tokens
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of forks beside threads
        child = os.fork()
    if child == 0:
        signal.alarm(20)
        with pytest.raises(EngineFailed, match="did not follow into this forked process"):
            short_loop.submit(request(model))
        short_loop.close()
        loop = model.serve()
        os._exit(0 if loop.submit(request(model, max_tokens=5)).finish().tokens == expected else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert short_loop.submit(request(model, max_tokens=5)).finish().tokens == expected
