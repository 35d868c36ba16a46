"""Draws drafts on the device, with the filters and the noise of offload/sampling; nothing is read back until asked for.

Close to what the host's sampler draws from the same logits, but not held to its bits: a draft is a guess, and the
verified token comes from the host's sampler.

Shapes: T sequences, V vocabulary, N candidates.
"""

from collections.abc import Sequence as Many
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ...ledger import TOKENS
from ...sampling import DraftStart, SamplingParams
from ..handoff import Link
from .noise import gumbel


class DeviceDraftSampler:
    """Drafts of several sequences, drawn together one token at a time."""

    def __init__(self, link: Link, starts: Many[DraftStart]):
        self._link = link
        self._sequences = [_Sequence(link, start) for start in starts]

    def draw(self, chosen: Many[int], logits_TV: Tensor) -> Tensor:
        """Next draft tokens, int64 (T,), of these T of the sequences."""
        pairs = zip(chosen, logits_TV.unbind(0), strict=True)
        return torch.cat([self._sequences[i].draw(logits_V) for i, logits_V in pairs])

    def read_back(self) -> list[tuple[list[int], list[float]]]:
        """Token ids drawn for each sequence, and confidence in them, in one transfer of 8 bytes a draft."""
        token_ids = torch.cat([ids for s in self._sequences for ids in s.token_ids]).to(torch.int32)
        confidence = torch.cat([c for s in self._sequences for c in s.confidence]).to(torch.float32)
        drawn = self._link.down(TOKENS, torch.stack([token_ids, confidence.view(torch.int32)]))
        ids, seen = drawn[0].tolist(), drawn[1].view(np.float32).tolist()
        ends = np.cumsum([0, *(len(s.confidence) for s in self._sequences)])
        return [(ids[a:b], seen[a:b]) for a, b in pairwise(ends)]


class _Sequence:
    def __init__(self, link: Link, start: DraftStart):
        params = self.params = start.sampler.params
        self._position = start.position
        self.token_ids: list[Tensor] = []
        self.confidence: list[Tensor] = []
        self._recent = self._bias = self._allowed = None
        matcher = start.sampler.matcher
        if matcher:  # what may follow a draft that nobody has read is unknown: `Sequence.allowed` cuts it there
            self._allowed = link.up(TOKENS, matcher.allowed([]))
        if params.look_back:
            self._recent = link.up(TOKENS, np.array(start.recent, np.int64))
        if params.logit_bias:
            ids = link.up(TOKENS, np.array(list(params.logit_bias), np.int64))
            self._bias = ids, link.up(TOKENS, np.array(list(params.logit_bias.values()), np.float32))

    def draw(self, logits_V: Tensor) -> Tensor:
        """The next token, int64 (1,)."""
        logits_V = self._adjusted(logits_V)
        if self.params.temperature == 0:
            best = logits_V.argmax(-1, keepdim=True)
            confidence = torch.softmax(logits_V, -1)[best]
        else:
            ids, log_p = _candidates(logits_V, self.params)
            noise = gumbel(self.params.seed, self._position + len(self.confidence), ids)
            noisy, order = (log_p + noise).topk(min(2, len(ids)))
            best = ids[order[:1]]
            confidence = torch.sigmoid(noisy[:1] - noisy[1:]) if len(ids) > 1 else torch.ones_like(noisy)
        self.token_ids.append(best)
        self.confidence.append(confidence)
        return best

    def _adjusted(self, logits_V: Tensor) -> Tensor:
        """Bias and penalties, drafted tokens counted as well; the first token is one that the grammar allows."""
        params = self.params
        if self._bias is not None:
            logits_V = logits_V.index_add(0, *self._bias)
        if self._recent is not None:
            seen = torch.cat([self._recent, *self.token_ids])[-params.look_back :]
            counts = torch.zeros_like(logits_V).index_add(0, seen, torch.ones_like(seen, dtype=logits_V.dtype))
            repeated = torch.where(
                logits_V > 0, logits_V / params.repetition_penalty, logits_V * params.repetition_penalty
            )
            penalized = repeated - counts * params.frequency_penalty - params.presence_penalty
            logits_V = torch.where(counts > 0, penalized, logits_V)
        if self._allowed is not None and not self.confidence:
            logits_V = logits_V.masked_fill(~self._allowed, -torch.inf)
        return logits_V


def _candidates(logits_V: Tensor, params: SamplingParams) -> tuple[Tensor, Tensor]:
    """The most probable tokens, int64 (N,), best first, and their log-probabilities; -inf where a filter took one."""
    num = min(params.top_k, len(logits_V)) if params.top_k else len(logits_V)
    values, ids = logits_V.topk(num)
    keep = torch.ones_like(values, dtype=torch.bool)
    if params.top_p < 1:
        p = torch.softmax(values, -1)
        keep = p.cumsum(-1) - p < params.top_p
    if params.min_p > 0:
        keep &= values >= values[0] + float(np.log(params.min_p))
    keep[0] = True
    return ids, torch.log_softmax((values / params.temperature).masked_fill(~keep, -torch.inf), -1)
