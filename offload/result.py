"""What a generation yields: its tokens one by one, and a result with the statistics."""

from collections import Counter
from dataclasses import dataclass, field

from scheduler import AcceptanceCounter, ReuseCounter

from .ledger import by_role
from .sampling import Logprobs


@dataclass(frozen=True)
class TokenEvent:
    """One generated token, in order."""

    token_id: int | None  # None: only text, the rest of a character that the last token left incomplete
    text: str  # what it adds; empty while a character is incomplete
    drafted: bool  # an accepted draft
    p: float  # probability it was drawn with
    logprobs: Logprobs | None = None  # where they were asked for


@dataclass
class Result:
    """A finished generation."""

    pieces: list[str] = field(default_factory=list)  # of the text
    tokens: list[int] = field(default_factory=list)
    logprobs: list[Logprobs] = field(default_factory=list)  # of the tokens, where they were asked for
    finish_reason: str = ""  # "stop", "length", or "cancelled" where its user did not want the rest
    prompt_tokens: int = 0
    prompt_reused: int = 0  # of them, found in the cache
    prompt_s: float = 0.0
    decode_s: float = 0.0
    decode_bytes: int = 0
    decode_emulated_s: float = 0.0  # what an emulated machine would have taken
    bytes_crossed: Counter[tuple[str, str]] = field(default_factory=Counter)  # by role and direction, prompt included
    acceptance: AcceptanceCounter = field(default_factory=AcceptanceCounter)
    reuse: ReuseCounter = field(default_factory=ReuseCounter)

    @property
    def text(self) -> str:
        """Without the stop string that ended it."""
        return "".join(self.pieces)

    @property
    def prompt_tokens_per_s(self) -> float:
        """Prompt tokens that had to be computed, a second."""
        return (self.prompt_tokens - self.prompt_reused) / self.prompt_s if self.prompt_s else 0.0

    @property
    def decode_tokens_per_s(self) -> float:
        """Tokens after the first, which the prompt's last step gave, by the time of the steps that made them."""
        return (len(self.tokens) - 1) / self.decode_s if self.decode_s else 0.0

    @property
    def emulated_tokens_per_s(self) -> float:
        """As `decode_tokens_per_s`, in the time of the emulated machine; 0 on a real one."""
        return (len(self.tokens) - 1) / self.decode_emulated_s if self.decode_emulated_s else 0.0

    @property
    def gb_per_s(self) -> float:
        """Weights and caches read while decoding, 1e9 bytes a second."""
        return self.decode_bytes / self.decode_s / 1e9 if self.decode_s else 0.0

    def as_json(self) -> dict[str, object]:
        """What `moe-offload generate --json` prints."""
        emulated = self.emulated_tokens_per_s
        more: dict[str, object] = {"emulated_tokens_per_s": round(emulated, 3)} if emulated else {}
        if self.logprobs:
            more["logprobs"] = [{"logprob": found.token, "top": found.top} for found in self.logprobs]
        return {
            "text": self.text,
            "tokens": self.tokens,
            "finish_reason": self.finish_reason,
            "prompt_tokens": self.prompt_tokens,
            "prompt_tokens_per_s": round(self.prompt_tokens_per_s, 3),
            "decode_tokens_per_s": round(self.decode_tokens_per_s, 3),
            "steps": self.reuse.steps,
            "drafted": self.acceptance.drafted,
            "accepted": self.acceptance.accepted,
            "acceptance_by_position": [round(share, 4) for share in self.acceptance.by_position],
            "experts_per_step": round(self.reuse.experts_per_step, 3),
            "expert_reuse": round(self.reuse.reuse, 4),
            "gb_per_s": round(self.gb_per_s, 3),
            "bytes_crossed": by_role(self.bytes_crossed),
        } | more
