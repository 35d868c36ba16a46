"""One step of `--draft auto`: whether to draft, how far, what to verify, what to drop on the way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from .batch import MOST_LOADED, Candidate, RowPrice, choose_rows, loaded_share
from .draft import Draft
from .explanation import Explanation
from .forecast import Signs
from .length import best_length, outlook_gain, survivals
from .policy import Request
from .truncation import new_by_layer

if TYPE_CHECKING:
    from .auto import AutoPolicy

PASS_SOURCE = "mtp"  # the drafter that costs a pass
LEAST_SURVIVAL = 0.5  # of what a probe goes on from
LEAST_CUT = 0.05  # tokens that a cut has to gain
CAUTION = 0.01  # a row must be worth its seconds by so much: estimates may be wrong, and plain decoding is sure


class AutoPlan:
    """The decisions of one step; lists go by sequence. Gains are tokens beyond those that the seconds would buy.

    Where a request fixes its length, that many are drafted and verified: those rows count as rows of the step, which
    load experts and need passes anyway, and the others are chosen beside them.

    Args:
        thought: what the step does is learned from, whatever time that takes.
    """

    def __init__(self, policy: AutoPolicy, requests: Sequence[Request], thought: bool = True):
        self.policy, self.thought = policy, thought
        self.states = [policy.state(request.key) for request in requests]
        self.requests = [request._replace(key=None) for request in requests]  # a plan keeps nothing alive that ended
        self._fixed = [request.length is not None for request in requests]
        self.limits = [min(r.limit, policy.most if r.length is None else r.length) for r in requests]
        self.guesses: list[list[Draft]] = [[] for _ in requests]  # all, verified or not
        self.drafts: list[Draft] = []  # what is verified
        self.signs: list[Signs] = []
        self.survivals: list[list[float]] = []
        self.surplus: list[list[float]] = []  # share of new experts foretold for each draft row, less its place's mean
        self.passes = self.drafted_rows = self.late = 0
        self.uncut: list[Draft] = []  # what was verified before a cut
        self.saved = 0.0  # tokens that the seconds of a cut's rows are worth
        loaded = [loaded_share(request.num_rows, policy.used_share) for request in requests]
        self._loaded = loaded
        self._free = [prod(1.0 - share for k, share in enumerate(loaded) if k != i) for i in range(len(loaded))]
        rows = sum(request.num_rows for request in requests)
        positions = sum(request.num_rows * request.position for request in requests)
        self.plain_s = policy.plain_s(rows, 1.0 - prod(1.0 - share for share in loaded), positions)
        self.plain_tokens = max(1, sum(limit > 0 for limit in self.limits))
        self.rate = policy.price.speedup * self.plain_tokens / self.plain_s
        self.price = (1 + CAUTION) * self.rate
        self.row, self.draft_s, self.start_s = policy.row_price(), policy.draft_s(), policy.start_s()
        self._open = [limit > 0 for limit in self.limits]
        self._mean_shares = policy.mean_shares() if any(self._open) else []
        self._first_gains: dict[int, float] = {}
        self._explanation = Explanation(self.plain_s, self.price, self.draft_s)

    def take(self, offers: Sequence[Draft]) -> list[bool]:
        taken = []
        for i, offer in enumerate(offers):
            takes = len(offer) > 0 and self._open[i]
            if takes and not self._fixed[i]:
                self.guesses[i].append(offer)
                takes = self.offer_length(i, offer) > 0
            taken.append(takes)
        self._open = [is_open and not take for is_open, take in zip(self._open, taken, strict=True)]
        return taken

    def extend(self, drafts: Sequence[Draft]) -> list[bool]:
        wanted = [False] * len(drafts)
        self._open = [
            is_open and len(draft) < limit and self._may_pass(i)
            for i, (is_open, draft, limit) in enumerate(zip(self._open, drafts, self.limits, strict=True))
        ]
        asked = [is_open and fixed for is_open, fixed in zip(self._open, self._fixed, strict=True)]
        choices = [is_open and not fixed for is_open, fixed in zip(self._open, self._fixed, strict=True)]
        gains = [self._gain(i, draft) if choices[i] else 0.0 for i, draft in enumerate(drafts)]
        if any(asked) or sum(gain for gain in gains if gain > 0) > self.price * self._pass_s():
            wanted = [ask or gain > 0 for ask, gain in zip(asked, gains, strict=True)]
        elif sum(self._open) > 1:
            wanted = self._together(drafts)
        if not any(wanted):
            wanted = self._probe(drafts, gains)
        self._open = wanted
        self.passes += any(wanted)
        self.drafted_rows += sum(wanted)
        return wanted

    def keep(self, drafts: Sequence[Draft]) -> list[int]:
        candidates, self.survivals = [], []
        for i, draft in enumerate(drafts):
            if len(draft) and not any(draft is guess for guess in self.guesses[i]):
                self.guesses[i].append(draft)
            survival, shares, signs = self._known(i, draft)
            self.signs.append(signs)
            self.survivals.append(survival)
            self.surplus.append([share - mean for share, mean in zip(shares, self._mean_shares, strict=False)])
            candidates.append(self._candidate(i, survival, shares))
        choice = choose_rows(candidates, self.row, self.policy.used_share, self.price)
        lengths = self._asked_or(choice.lengths, [min(len(d), m) for d, m in zip(drafts, self.limits, strict=True)])
        self.drafts = [draft.first(length) for draft, length in zip(drafts, lengths, strict=True)]
        self._explanation.rows = choice.order
        return lengths

    @property
    def may_cut(self) -> bool:
        chosen = any(len(draft) and not fixed for draft, fixed in zip(self.drafts, self._fixed, strict=True))
        return chosen and self.policy.truncate and self.policy.truncation.pays

    def cut(self, expert_ids: Sequence[np.ndarray]) -> list[int] | None:
        truncation, layers = self.policy.truncation, len(expert_ids)
        if layers not in truncation.checkpoints or self._explanation.cuts or not self.may_cut:
            return None
        drafted = [len(draft) for draft in self.drafts]
        new_LM = self.policy.union.new_LM
        row_s = self.row.row_s * (len(new_LM) - layers + 1) / len(new_LM)
        ids_LTK, candidates, end = np.stack(expert_ids), [], 0
        for i, (request, num) in enumerate(zip(self.requests, drafted, strict=True)):
            end += request.num_rows + num
            if self._fixed[i]:
                candidates.append(Candidate([], [], self._loaded[i]))
                continue
            new_LT = new_by_layer(ids_LTK[:, end - num - 1 : end])[:, 1:]  # for the drafts of the sequence
            expected_LM = new_LM[:, :num] + self.surplus[i][:num]
            remaining = [truncation.remaining(new_LT[:, j], expected_LM[:, j]) for j in range(num)]
            candidates.append(Candidate(self.survivals[i][:num], remaining, self._loaded[i]))
        row = RowPrice(row_s, self.row.new_experts_s)
        choice = choose_rows(candidates, row, self.policy.used_share, self.rate)
        all_rows = sum(survival - self.rate * seconds for _, survival, seconds in choice.order)
        if choice.gain - all_rows < LEAST_CUT:
            return None
        lengths = self._asked_or(choice.lengths, drafted)
        self._explanation.cuts.append((layers, lengths))
        self.uncut = self.drafts
        all_tokens, kept_tokens = (
            sum(sum(s[:n]) for s, n in zip(self.survivals, ns, strict=True)) for ns in (drafted, lengths)
        )
        self.saved = choice.gain - all_rows + all_tokens - kept_tokens
        self.drafts = [draft.first(length) for draft, length in zip(self.drafts, lengths, strict=True)]
        return lengths

    def lost(self, i: int, new_token_ids: Sequence[int]) -> float:
        """Right tokens that a cut threw away: the first is known where all before it were right, more are expected."""
        kept = len(self.drafts[i])
        if not self.uncut or len(new_token_ids) != kept + 1 or len(self.uncut[i]) == kept:
            return 0.0
        if self.uncut[i].token_ids[kept] != new_token_ids[kept]:
            return 0.0
        survival = self.survivals[i][kept : len(self.uncut[i])]
        return sum(survival) / survival[0]

    def tokens(self) -> float:
        """Expected of the step: the chances of what was verified, and one of each sequence."""
        return self.plain_tokens + sum(sum(s[: len(d)]) for s, d in zip(self.survivals, self.drafts, strict=True))

    def explain(self) -> str:
        return self._explanation.text(self.drafts)

    def mean_shares(self) -> list[float]:
        return self._mean_shares

    def _may_pass(self, i: int) -> bool:
        return self.policy.can_draft and self.requests[i].passes

    def _asked_or(self, chosen: Sequence[int], asked: Sequence[int]) -> list[int]:
        """The chosen lengths, where no length was asked for."""
        return [a if fixed else c for c, a, fixed in zip(chosen, asked, self._fixed, strict=True)]

    def _candidate(self, i: int, survival: list[float], shares: Sequence[float]) -> Candidate:
        """Rows to choose from; of a fixed length there is no choice: its rows load what they load."""
        if not self._fixed[i]:
            return Candidate(survival, shares, self._loaded[i])
        return Candidate([], [], min(MOST_LOADED, self._loaded[i] + sum(shares) * self.policy.used_share))

    def _shift(self, i: int, source: str) -> float:
        return self.states[i].shift(source).value

    def _chances(self, i: int, draft: Draft) -> list[float]:
        """Chance of each token given those before it: the mean of its place where it is unseen."""
        acceptance, shift = self.policy.accepted_of(draft.source), self._shift(i, draft.source)
        seen = [acceptance.chance(j, p, shift) for j, p in enumerate(draft.p)]
        return seen + acceptance.means(len(seen), len(draft), shift)

    def _known(self, i: int, draft: Draft) -> tuple[list[float], list[float], Signs]:
        """Survival and share of new experts of each row of a draft, and the signs that the latter were told from."""
        if len(draft) == 0:
            return [], [], []
        survival = survivals(self._chances(i, draft))
        if not self.policy.by_routing:
            return survival, self._mean_shares[: len(draft)], []
        signs = self.policy.forecast.signs([self.requests[i].token_ids[-1], *draft.token_ids], draft.expert_ids)
        return survival, self.policy.forecast.shares(self._mean_shares, signs), signs

    def _together(self, drafts: Sequence[Draft]) -> list[bool]:
        """Which to extend where no sequence's drafts pay alone, but all of them may: they share what they load."""
        far, near = [], []
        for i, draft in enumerate(drafts):
            survival, shares, _ = self._known(i, draft)
            near.append(self._candidate(i, survival, shares))
            if self._open[i]:
                acceptance, shift = self.policy.accepted_of(PASS_SOURCE), self._shift(i, PASS_SOURCE)
                later = acceptance.means(len(draft), self.limits[i], shift)
                reached = survival[-1] if survival else 1.0
                survival = survival + [reached * s for s in survivals(later)]
                shares = [*shares, *self._mean_shares[len(draft) : self.limits[i]]]
            far.append(self._candidate(i, survival, shares))
        now, then = (choose_rows(c, self.row, self.policy.used_share, self.price) for c in (near, far))
        more = [length - len(draft) for length, draft in zip(then.lengths, drafts, strict=True)]
        if then.gain - now.gain <= self.price * (self._pass_s() + self.draft_s * (max(more) - 1)):
            return [False] * len(drafts)
        return [is_open and m > 0 for is_open, m in zip(self._open, more, strict=True)]

    def _probe(self, drafts: Sequence[Draft], gains: Sequence[float]) -> list[bool]:
        """Now and then one token more than seems to pay, behind drafts that are likely to be right."""
        likely = [i for i, draft in enumerate(drafts) if self._open[i] and self._reached(i, draft) >= LEAST_SURVIVAL]
        if not likely:
            return [False] * len(drafts)
        best = max(likely, key=lambda i: gains[i])
        loss_s = max(0.0, self._pass_s() - gains[best] / self.price) + self.policy.late_s(self._num_late())
        if not self.policy.probes.affords(loss_s):
            return [False] * len(drafts)
        self.policy.probes.spend(loss_s)
        self._explanation.probes += 1
        return [i == best for i in range(len(drafts))]

    def _num_late(self) -> int:
        """Tokens that the drafter would have to be shown late for a first draft."""
        if self.passes:
            return 0
        return sum(state.unseen for state in self.states)

    def _reached(self, i: int, draft: Draft) -> float:
        """Chance that the whole draft is accepted."""
        return prod(self._chances(i, draft))

    def _pass_s(self) -> float:
        """Seconds of the next pass."""
        return self.draft_s if self.passes else self.draft_s + self.start_s

    def _extra_s(self, i: int, shares: Sequence[float]) -> list[float]:
        """Seconds of rows that find these shares of their experts new in their own sequence."""
        new_s = self.row.new_experts_s * self._free[i]
        return [self.row.row_s + new_s * share for share in shares]

    def _gain(self, i: int, draft: Draft) -> float:
        """What one more token of a pass is expected to gain, the pass itself, which all sequences share, not paid."""
        j, limit = len(draft), self.limits[i]
        if j == 0 and i in self._first_gains:
            return self._first_gains[i]
        acceptance, shift = self.policy.accepted_of(PASS_SOURCE), self._shift(i, PASS_SOURCE)
        survival = survivals(self._chances(i, draft))
        extra_s = self._extra_s(i, self._mean_shares)
        _, best = best_length(survival, extra_s[:j], self.price)
        debt = best - sum(survival) + self.price * sum(extra_s[:j])
        later = acceptance.means(j + 1, limit, shift)
        draft_s = [0.0] + [self.draft_s / sum(self._open)] * len(later)
        reached = survival[-1] if survival else 1.0
        outlook = acceptance.outlook(j, shift)
        return outlook_gain(reached, outlook, later, draft_s, extra_s[j:limit], self.price, debt)

    def is_fixed(self, i: int) -> bool:
        return self._fixed[i]

    def offer_length(self, i: int, offer: Draft) -> int:
        """How much of a draft that cost nothing pays; 0 if one that costs passes is worth more."""
        length, gain = best_length(
            survivals(self._chances(i, offer)), self._extra_s(i, self._mean_shares[: len(offer)]), self.price
        )
        if not self._may_pass(i):
            return length
        self._first_gains[i] = self._gain(i, Draft(source=PASS_SOURCE))
        return length if gain > max(0.0, self._first_gains[i] - self.price * self._pass_s()) else 0

    def mean_lengths(self) -> list[int]:
        """Drafts of each sequence that pay if they are as good as they are on average; those that were asked for."""
        if len(self.requests) == 1 and not self._fixed[0]:
            return [self._mean_length()]
        candidates, asked = [], 0
        for i, limit in enumerate(self.limits):
            chances = []
            if self._fixed[i]:
                asked = max(asked, limit if self._may_pass(i) else 0)
            elif self._may_pass(i):
                chances = self.policy.accepted_of(PASS_SOURCE).means(0, limit, self._shift(i, PASS_SOURCE))
            candidates.append(self._candidate(i, survivals(chances), self._mean_shares[:limit]))
        best, best_gain, before = [0] * len(candidates), 0.0, -math.inf
        for passes in range(1, 1 + max((len(c.survival) for c in candidates), default=0)):
            first = [replace(c, survival=c.survival[:passes]) for c in candidates]
            choice = choose_rows(first, self.row, self.policy.used_share, self.price)
            passes_s = self.draft_s * max(0, passes - asked) + (0.0 if asked else self.start_s)
            gain = choice.gain - self.price * passes_s
            if gain > best_gain:
                best, best_gain = choice.lengths, gain
            if gain < before:
                break
            before = gain
        return self._asked_or(best, self.limits)

    def _mean_length(self) -> int:
        """The same for a sequence that is alone."""
        if not self._may_pass(0):
            return 0
        acceptance, shift = self.policy.accepted_of(PASS_SOURCE), self._shift(0, PASS_SOURCE)
        chances: list[float] = []
        survival, least = 1.0, self.price * (self.row.row_s + self.draft_s)
        while len(chances) < self.limits[0] and survival > least:  # a row behind would not pay if it loaded nothing
            chances += acceptance.means(len(chances), len(chances) + 1, shift)
            survival *= chances[-1]
        extra_s = [seconds + self.draft_s for seconds in self._extra_s(0, self._mean_shares[: len(chances)])]
        length, gain = best_length(survivals(chances), extra_s, self.price)
        return length if gain > self.price * self.start_s else 0

    def rows_s(self, i: int) -> list[float]:
        """Seconds of 0, 1, 2, ... draft rows of a sequence beside the others' own rows."""
        return [0.0, *accumulate(self._extra_s(i, self._mean_shares[: self.limits[i]]))]
