"""What the operator of a server can set."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import OptionError
from ..request import AUTO, GenerationRequest, sampling_params

LOCAL = ("127.0.0.1", "::1", "localhost")

RANGES = {
    "port": (0, 65535),
    "max_connections": (1, 65536),
    "max_waiting": (0, 1 << 20),
    "max_body_bytes": (1024, 1 << 32),
    "max_tokens": (1, 1 << 31),
    "max_choices": (1, 1024),
    "body_timeout_s": (0.1, 3600),
    "request_timeout_s": (0.1, 7 * 86400),
    "grace_s": (0, 3600),
}


@dataclass(frozen=True)
class ServerOptions:
    """Addresses, keys and limits.

    Raises:
        OptionError: a value outside its legal range.
    """

    host: str = "127.0.0.1"
    port: int = 8080  # 0 takes a free one
    api_keys: tuple[str, ...] = ()  # without any, everyone who reaches the port may ask
    cors_origins: tuple[str, ...] = ()  # web pages of other origins that may ask; "*" for all
    allowed_hosts: tuple[str, ...] = ()  # names that it goes by besides localhost; "*" for any
    model_name: str = "moe-offload"  # what /v1/models says; any name is answered
    max_connections: int = 128
    max_waiting: int = 64  # requests that may wait for a slot
    max_body_bytes: int = 8 << 20
    max_tokens: int = 1 << 31  # of an answer; the context ends it anyhow
    max_choices: int = 16  # answers to one request: `n`, times its prompts
    body_timeout_s: float = 30.0  # for a request to arrive
    request_timeout_s: float = 3600.0  # for its answer, waiting included
    grace_s: float = 30.0  # that running answers are given to end when the server is told to
    log_prompts: bool = False
    draft: int | str = AUTO  # where a request does not say how it is drafted for
    drafter: str = AUTO
    sampling: Mapping[str, Any] = field(default_factory=dict)  # where a request does not say; without a seed it varies

    def __post_init__(self) -> None:
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise OptionError(f"{name} is {value}; the legal range is {low}..{high}")
        GenerationRequest((), sampling=sampling_params(**self.sampling), draft=self.draft, drafter=self.drafter)
        if any(not key or not key.isascii() or key != key.strip() for key in self.api_keys):
            raise OptionError("an API key is empty, or has spaces around it or characters that are not ASCII")

    @property
    def checks_hosts(self) -> bool:
        """Whether requests for names that nobody gave it are refused; on open addresses only if some were given."""
        return self.host in LOCAL or bool(self.allowed_hosts)

    @property
    def is_open(self) -> bool:
        """Whether other machines may reach it without a key."""
        return self.host not in LOCAL and not self.api_keys
