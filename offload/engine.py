"""The step: propose, verify, accept, observe. Plain decoding is a step whose draft is empty.

Shapes: T rows of a step, D hidden, V vocabulary.
"""

from collections import Counter
from collections.abc import Sequence as Many
from dataclasses import dataclass

import numpy as np

from scheduler import DraftPolicy

from .costs import kv_bytes, routed_bytes, weight_bytes
from .drafting import Draft, Drafter, Observation
from .rows import Rows
from .sampling import Draw
from .sequence import Sequence
from .trunk import Trunk, Verified
from .weights import MoeWeights


@dataclass(frozen=True)
class Outcome:
    """What a step did for one sequence."""

    draws: list[Draw]  # new tokens: the accepted drafts and one more; none while the prompt goes on
    draft: Draft
    logits: np.ndarray  # float32 (len(draft) + 1, V) that the draws came from; (0, V) while the prompt goes on

    @property
    def accepted(self) -> int:
        """Leading draft tokens that the model agreed with."""
        return max(0, len(self.draws) - 1)


@dataclass(frozen=True)
class Step:
    outcomes: list[Outcome]
    expert_ids: list[np.ndarray]  # int32 (T, K) of each MoE layer
    bytes_read: int  # weights and caches, drafting included
    bytes_crossed: Counter[tuple[str, str]]  # between accelerator and host, by role and direction
    emulated_s: float  # what the emulated machine would have taken; 0 on a real one


class Engine:
    """Steps any number of sequences together, each in a cache slot of its own."""

    def __init__(self, trunk: Trunk, drafter: Drafter, policy: DraftPolicy, chunk_size: int):
        self.trunk, self.drafter, self.policy, self.chunk_size = trunk, drafter, policy, chunk_size
        self._moe_blocks = [block for block in trunk.weights.blocks if isinstance(block.ffn, MoeWeights)]
        self._block_bytes = weight_bytes(trunk.weights.blocks)
        self._head_bytes = weight_bytes(trunk.weights.head)

    def step(self, sequences: Many[Sequence]) -> Step:
        """One pass of the trunk over the next rows of every sequence; their tokens and `num_cached` advance.

        Raises:
            ContextFull: rows reach beyond the cache; the sequences are then as before.
        """
        with self.trunk.layers.backend.work():
            return self._step(sequences)

    def _step(self, sequences: Many[Sequence]) -> Step:
        backend = self.trunk.layers.backend
        bytes_before, crossed_before = self.drafter.bytes_read, backend.ledger.totals()
        emulated_before = backend.emulated_s
        lengths = self.policy.choose([s.draft_limit for s in sequences])
        drafts = self.drafter.propose(sequences, lengths)
        parts = [self._rows(s, draft) for s, draft in zip(sequences, drafts, strict=True)]
        rows = Rows.concat(parts)
        verified = self.trunk.forward(rows)
        outcomes = self._accept(sequences, drafts, parts, verified)
        self._advance(sequences, parts, outcomes, verified)
        bytes_read = self.drafter.bytes_read - bytes_before + self._bytes_read(rows, outcomes, verified)
        crossed, emulated_s = backend.ledger.totals() - crossed_before, backend.emulated_s - emulated_before
        return Step(outcomes, verified.expert_ids, bytes_read, crossed, emulated_s)

    def _rows(self, sequence: Sequence, draft: Draft) -> Rows:
        """The next tokens that the trunk has not seen, then the draft."""
        token_ids = sequence.uncached[: self.chunk_size] + draft.token_ids
        return Rows.consecutive(sequence.slot, sequence.num_cached, token_ids)

    def _accept(
        self, sequences: Many[Sequence], drafts: Many[Draft], parts: Many[Rows], verified: Verified
    ) -> list[Outcome]:
        """Scores the rows that a token follows, and draws from them until a draft is wrong."""
        ends = np.cumsum([len(part) for part in parts])
        counts = [
            len(draft) + 1 if len(part) == len(s.uncached) + len(draft) else 0
            for s, draft, part in zip(sequences, drafts, parts, strict=True)
        ]
        wanted = [verified.hidden_TD[end - count : end] for end, count in zip(ends, counts, strict=True) if count]
        join = self.trunk.layers.backend.join_rows
        logits_TV = self.trunk.logits(join(wanted)) if wanted else np.empty((0, 0), np.float32)
        logits = np.split(logits_TV, np.cumsum(counts)[:-1])
        return [
            Outcome(accept(s, draft, scores), draft, scores)
            for s, draft, scores in zip(sequences, drafts, logits, strict=True)
        ]

    def _advance(
        self, sequences: Many[Sequence], parts: Many[Rows], outcomes: Many[Outcome], verified: Verified
    ) -> None:
        """Takes the new tokens over, forgets rejected rows, and shows the drafter what was kept."""
        observations, offset = [], 0
        for sequence, part, outcome in zip(sequences, parts, outcomes, strict=True):
            start, kept = sequence.num_cached, len(part) - len(outcome.draft) + outcome.accepted
            sequence.token_ids.extend(draw.token_id for draw in outcome.draws)
            sequence.num_cached += kept
            following = sequence.token_ids[start + 1 : start + 1 + kept]
            observations.append(Observation(sequence, start, following, verified.hidden_TD[offset : offset + kept]))
            offset += len(part)
        self.drafter.observe(observations)

    def _bytes_read(self, rows: Rows, outcomes: Many[Outcome], verified: Verified) -> int:
        head = self._head_bytes if any(len(o.logits) for o in outcomes) else 0
        routed = routed_bytes(self._moe_blocks, verified.expert_ids)
        return self._block_bytes + head + routed + kv_bytes(self.trunk.cache, rows)


def accept(sequence: Sequence, draft: Draft, logits: np.ndarray) -> list[Draw]:
    """Draws the tokens that the rows give, up to the first that differs from the draft or ends the text.

    Args:
        logits: float32 (len(draft) + 1, V): row i follows draft token i - 1. No rows, no draws.
    """
    position, history, draws = len(sequence.token_ids), sequence.recent, []
    for row, logits_V in enumerate(logits):
        draw = sequence.sampler.draw(logits_V, position + row, history)
        draws.append(draw)
        history.append(draw.token_id)
        if row == len(draft) or draw.token_id != draft.token_ids[row] or draw.token_id in sequence.stop_ids:
            break
    return draws
