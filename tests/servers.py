"""Servers on this machine's own address, for tests."""

import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import uvicorn

import offload
from offload.result import Result, TokenEvent
from offload.server import ServerOptions, Service, create_app
from offload.server.connections import limited_protocol
from offload.serving import Answer, GenerationRequest, Totals
from offload.serving.heat import ExpertHeat


@contextmanager
def served(loop: Any, send_buffer_bytes: int = 0, **options: Any) -> Iterator[str]:
    """The address of a server over `loop`, which stays open afterwards.

    Args:
        send_buffer_bytes: of the system, for each connection; 0 leaves it to the system.
    """
    service = Service(ServerOptions(**options))
    service.open(loop)
    app = create_app(service)
    listener = socket.create_server(("127.0.0.1", 0))
    if send_buffer_bytes:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_bytes)
    config = uvicorn.Config(
        app, http=limited_protocol(service.options), ws="none", log_config=None, access_log=False, lifespan="off"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=[[listener]], daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


class ScriptedLoop:
    """Takes requests as a serving loop does, and answers them with given texts in turn, token by token."""

    def __init__(self, model: offload.LanguageModel, texts: Sequence[str], reason: str = "stop"):
        self.model, self.texts, self.reason = model, list(texts), reason
        self.requests: list[GenerationRequest] = []
        self.is_open = True
        self.heat = ExpertHeat(1)

    def submit(self, request: GenerationRequest) -> Answer:
        answer = Answer(request, self.model.sequence(request), lambda: None)
        token_ids = self.model.tokenizer.encode(self.texts[len(self.requests) % len(self.texts)])
        self.requests.append(request)
        result = Result(prompt_tokens=len(request.token_ids), tokens=list(token_ids), finish_reason=self.reason)
        if self.reason == "stop":
            result.tokens.append(min(self.model.tokenizer.end_of_generation))
        answer.transcript = SimpleNamespace(result=result)
        stream = self.model.tokenizer.stream()
        answer.put([TokenEvent(token_id, stream.push(token_id), False, 1.0) for token_id in token_ids])
        answer.end()
        return answer

    def slots(self) -> list[Any]:
        return []

    def totals(self) -> Totals:
        return Totals()
