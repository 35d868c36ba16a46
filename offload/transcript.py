"""Folds what steps did to one sequence into tokens, text and statistics: the same alone and among others."""

from collections.abc import Sequence as Many

import numpy as np

from .engine import Outcome, Step
from .errors import GrammarError
from .result import Result, TokenEvent
from .sampling import Logprobs, logprobs
from .sequence import Sequence
from .stop_strings import StopGate
from .tokenizer import Tokenizer


class Transcript:
    """What a sequence has become so far; complete once `result.finish_reason` says why it ended."""

    def __init__(self, sequence: Sequence, tokenizer: Tokenizer, stop_strings: Many[str]):
        self.result = Result(prompt_tokens=len(sequence.token_ids), prompt_reused=sequence.num_cached)
        self.sequence = sequence
        self._stream, self._gate = tokenizer.stream(), StopGate(stop_strings)

    def take(self, step: Step, outcome: Outcome, seconds: float) -> list[TokenEvent]:
        """Events of a step that the sequence took part in, in order.

        Args:
            outcome: the step's for this sequence.
            seconds: that the step took. Where other sequences shared it, they count it too.

        Raises:
            GrammarError: the text is over, because its grammar could not be followed any further.
        """
        result, sequence, events = self.result, self.sequence, list[TokenEvent]()
        self._count(step, outcome, seconds)
        for i, draw in enumerate(outcome.draws):
            result.tokens.append(draw.token_id)
            ended = draw.token_id in sequence.stop_ids
            text = "" if ended else self._stream.push(draw.token_id)
            found = self._logprobs(outcome.logits[i], draw.token_id)
            result.logprobs += [found] if found else []
            events += self._gate.push(TokenEvent(draw.token_id, text, i < outcome.accepted, draw.p, found))
            if ended or self._gate.stopped:
                result.finish_reason = "stop"
                break
        matcher = sequence.sampler.matcher
        if matcher and matcher.error and not self._gate.stopped:
            raise GrammarError(matcher.error)
        if not result.finish_reason and len(sequence.token_ids) >= sequence.limit:
            result.finish_reason = "length"
        if result.finish_reason and not self._gate.stopped:
            events += self._gate.flush(self._stream.finish())
        result.pieces += [event.text for event in events]
        return events

    def _logprobs(self, logits_V: np.ndarray, token_id: int) -> Logprobs | None:
        num_top = self.sequence.sampler.params.logprobs
        return None if num_top is None else logprobs(logits_V, token_id, num_top)

    def _count(self, step: Step, outcome: Outcome, seconds: float) -> None:
        result = self.result
        result.bytes_crossed += step.bytes_crossed
        if not result.tokens:
            result.prompt_s += seconds
            return
        result.decode_s += seconds
        result.decode_bytes += step.bytes_read
        result.decode_emulated_s += step.emulated_s
        result.acceptance.observe(len(outcome.draft), outcome.accepted)
        result.reuse.observe(step.expert_ids)
