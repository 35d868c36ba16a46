"""Chance that a draft token is accepted if those before it were: calibrated on the drafter's confidence.

    log-odds of acceptance = w . (1, log-odds of the confidence, is it a later one, how much later)  + shift

The weights are learned online for each source of drafts and drift slowly; a sequence adds a shift of its own, which
begins at 0 and follows its text.

Source: Platt 1999 (scaling to calibrated probabilities); online Bayesian logistic regression as an extended Kalman
filter (Penny and Roberts 1999).
"""

import math
from bisect import bisect
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

PRIOR_WEIGHTS = (-0.7, 0.6, -0.1, 0.0)  # sceptical: a drafter has to show that it is good
PRIOR_SPREAD = (1.2, 0.5, 0.4, 0.15)
DRIFT = (0.002, 0.00075, 0.001, 0.0005)  # standard deviation for each draft seen
SHIFT_SPREAD = 0.25  # of sequences about the mean of all, beyond what their drafts' confidence tells
SHIFT_DRIFT = 0.006
MOST_LOG_ODDS = 5.0

EDGES = (0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95, 0.98, 0.995)  # between bins of confidence
UNKNOWN = len(EDGES) + 1  # the bin of drafts without a confidence
MIDDLES = (0.05, 0.15, 0.28, 0.43, 0.58, 0.73, 0.86, 0.93, 0.967, 0.989, 0.998, math.nan)
MOST_POSITIONS = 8  # later ones count as the last of these
OUTLOOK_MEMORY = 64.0  # drafts from which the confidence of the next one is expected
OUTLOOK_PRIOR = ((2.0, 0.58), (2.0, 0.86))  # weight and confidence


@dataclass
class SequenceShift:
    """How much better than usual the drafts of one sequence do, in log-odds."""

    value: float = 0.0
    variance: float = SHIFT_SPREAD**2


@dataclass
class _Count:
    drafted: int = 0
    accepted: int = 0
    confidence: float = 0.0  # sums over the drafts
    expected: float = 0.0


class Counts:
    """Drafts of one sequence, to be learned from together."""

    def __init__(self) -> None:
        self.by_place: dict[tuple[int, int], _Count] = {}  # position and bin
        self.drafted: Counter[tuple[int, int]] = Counter()

    def observe(self, p: Sequence[float], accepted: int) -> None:
        """A draft whose first `accepted` tokens were right; what stands behind the first wrong one is not known."""
        for position, value in enumerate(p[:MOST_POSITIONS]):
            place = position, bin_of(value)
            self.drafted[place] += 1
            if position <= accepted:
                count = self.by_place.setdefault(place, _Count())
                count.drafted += 1
                count.accepted += position < accepted
                count.confidence += value


class CalibratedAcceptance:
    """Acceptance of one source of drafts."""

    def __init__(self) -> None:
        self.weights = list(PRIOR_WEIGHTS)
        self._spread = [[s**2 if i == j else 0.0 for j in range(4)] for i, s in enumerate(PRIOR_SPREAD)]
        self._bins = [_Count() for _ in range(UNKNOWN + 1)]
        self._recent = [[0.0] * (UNKNOWN + 1) for _ in range(MOST_POSITIONS)]
        self._outlooks: dict[int, list[tuple[float, float]]] = {}  # until something is learned
        self._means: list[float] = []  # log-odds, the same

    def chance(self, position: int, p: float, shift: float = 0.0) -> float:
        """Chance of the draft at `position` (0 is the first) with confidence p (NaN: none)."""
        return _sigmoid(self._log_odds(_features(position, p)) + shift)

    def outlook(self, position: int, shift: float = 0.0) -> list[tuple[float, float]]:
        """What the next draft may turn out to be: (weight, chance) pairs whose weights sum to 1."""
        position = min(position, MOST_POSITIONS - 1)
        known = self._outlooks.get(position)
        if known is None:
            known = self._outlooks[position] = self._outlook(position)
        return [(weight, _sigmoid(log_odds + shift)) for weight, log_odds in known]

    def means(self, first: int, end: int, shift: float = 0.0) -> list[float]:
        """Mean chances of the drafts at positions first to end - 1."""
        while len(self._means) < min(end, MOST_POSITIONS):
            mean = sum(weight * a for weight, a in self.outlook(len(self._means)))
            self._means.append(math.log(mean / (1 - mean)))
        return [_sigmoid(self._means[min(position, MOST_POSITIONS - 1)] + shift) for position in range(first, end)]

    def observe(self, p: Sequence[float], accepted: int, shift: SequenceShift) -> None:
        """A draft whose truth is known: tokens of these confidences, the first `accepted` of which were right."""
        for position in range(min(len(p), accepted + 1)):
            x, right = _features(position, p[position]), position < accepted
            log_odds = self._log_odds(x) + shift.value
            chance = _sigmoid(log_odds)
            self._count(p[position], chance, right)
            self._learn(x, chance, right, shift)
        self._forget_outlook()

    def observe_counts(self, counts: "Counts", shift: SequenceShift) -> None:
        """Drafts of one sequence that were counted, all of them verified."""
        for (position, _), seen in counts.by_place.items():
            mean_p = seen.confidence / seen.drafted
            x = _features(position, mean_p)
            chance = _sigmoid(self._log_odds(x) + shift.value)
            self._count(mean_p, chance, seen.accepted, seen.drafted)
            self._learn(x, chance, seen.accepted, shift, seen.drafted)
        for (position, b), num in counts.drafted.items():
            self._draft(position, b, num)
        self._forget_outlook()

    def drafted(self, p: Sequence[float]) -> None:
        """Tokens were drafted, verified or not: shows what confidence to expect."""
        for position, value in enumerate(p[:MOST_POSITIONS]):
            self._draft(position, bin_of(value))
        self._forget_outlook()

    def curve(self) -> list[tuple[float, float, float, int]]:
        """The calibration: (mean confidence, mean chance foretold, share accepted, drafts) of each bin with drafts."""
        return [
            (b.confidence / b.drafted, b.expected / b.drafted, b.accepted / b.drafted, b.drafted)
            for b in self._bins
            if b.drafted
        ]

    def _draft(self, position: int, b: int, num: int = 1) -> None:
        recent, num = self._recent[position], min(num, int(OUTLOOK_MEMORY))
        total = sum(recent)
        if total + num > OUTLOOK_MEMORY:
            keep = (OUTLOOK_MEMORY - num) / total
            recent[:] = [n * keep if n > 1e-2 else 0.0 for n in recent]
        recent[b] += num

    def _forget_outlook(self) -> None:
        self._outlooks.clear()
        self._means.clear()

    def _log_odds(self, x: Sequence[float]) -> float:
        w = self.weights
        return w[0] * x[0] + w[1] * x[1] + w[2] * x[2] + w[3] * x[3]

    def _outlook(self, position: int) -> list[tuple[float, float]]:
        recent = self._recent[position]
        if position and sum(recent) < OUTLOOK_MEMORY / 8:  # hardly seen yet: like the position before
            recent = self._recent[position - 1]
        seen = [(n, MIDDLES[b]) for b, n in enumerate(recent) if n > 0]
        total = sum(n for n, _ in (*seen, *OUTLOOK_PRIOR))
        return [(n / total, self._log_odds(_features(position, p))) for n, p in (*seen, *OUTLOOK_PRIOR)]

    def _count(self, p: float, chance: float, accepted: int, drafted: int = 1) -> None:
        b = self._bins[bin_of(p)]
        b.drafted, b.accepted = b.drafted + drafted, b.accepted + accepted
        b.confidence, b.expected = b.confidence + drafted * p, b.expected + drafted * chance

    def _learn(self, x: Sequence[float], chance: float, accepted: int, shift: SequenceShift, drafted: int = 1) -> None:
        """One step of the filter over the weights and the sequence's shift, which are taken as independent."""
        spread = self._spread
        for i, drift in enumerate(DRIFT):
            spread[i][i] += drafted * drift**2
        shift.variance += drafted * SHIFT_DRIFT**2
        gains = [sum(a * b for a, b in zip(row, x, strict=True)) for row in spread]
        information = drafted * chance * (1 - chance)
        total = 1 + information * (sum(g * b for g, b in zip(gains, x, strict=True)) + shift.variance)
        surprise = (accepted - drafted * chance) / total
        for i, g in enumerate(gains):
            self.weights[i] += g * surprise
            for j, h in enumerate(gains):
                spread[i][j] -= information * g * h / total
        shift.value += shift.variance * surprise
        shift.variance -= information * shift.variance**2 / total


def _features(position: int, p: float) -> tuple[float, float, float, float]:
    known = 0.0 if p != p else max(-MOST_LOG_ODDS, min(MOST_LOG_ODDS, math.log(max(p, 1e-9) / max(1 - p, 1e-9))))
    return (1.0, known, float(position > 0), float(max(0, min(position, MOST_POSITIONS) - 1)))


def bin_of(p: float) -> int:
    return UNKNOWN if p != p else bisect(EDGES, p)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-max(-30.0, min(30.0, x))))
