"""The ledger of what crosses between an accelerator and the host: bytes by role and direction, exact and always on.

While the drafter works, nothing crosses but tokens: their ids and positions up, and the drafts down, once. Anything
else is booked as `mtp` and refused.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

HIDDEN = "hidden"  # down: the rows that routed experts on the host work on
ROUTING = "routing"  # down: chosen experts and their weights
SUMS = "sums"  # up: what the experts made of them
TOKENS = "tokens"  # up: ids, slots, positions of rows, which ids a grammar allows; down: drafts and their probabilities
LOGITS = "logits"  # down: scores of the rows that a token is drawn from
WEIGHTS = "weights"  # up, while loading
MTP = "mtp"  # must stay 0: tensors and states of the MTP block
ROLES = (HIDDEN, ROUTING, SUMS, TOKENS, LOGITS, WEIGHTS, MTP)
DOWN, UP = "down", "up"  # from the accelerator to the host, and back


class CrossingError(AssertionError):
    """Something crossed between backends that must not: a fault of the program, not of its user."""


class Ledger:
    def __init__(self) -> None:
        self._bytes: Counter[tuple[str, str]] = Counter()
        self._read_backs_left: int | None = None  # None: the drafter is not at work
        self.on_transfer: Callable[[int], None] = lambda num_bytes: None  # told the bytes of each transfer

    def add(self, role: str, direction: str, num_bytes: int) -> None:
        """Books a transfer.

        Raises:
            CrossingError: the drafter is at work, and this is no token or one read-back too many.
        """
        assert role in ROLES, role
        if self._read_backs_left is not None:
            if role != TOKENS:
                self._bytes[MTP, direction] += num_bytes
                raise CrossingError(
                    f"{num_bytes} bytes ({role}) went {direction} while drafting: MTP tensors never cross backends"
                )
            if direction == DOWN:
                if not self._read_backs_left:
                    raise CrossingError("drafts were read back more than once a step: draw them all, then read back")
                self._read_backs_left -= 1
        self._bytes[role, direction] += num_bytes
        self.on_transfer(num_bytes)

    @contextmanager
    def drafting(self, read_backs: int) -> Iterator[None]:
        """While the drafter works: only tokens cross, down at most `read_backs` times."""
        before, self._read_backs_left = self._read_backs_left, read_backs
        try:
            yield
        finally:
            self._read_backs_left = before

    @property
    def is_drafting(self) -> bool:
        return self._read_backs_left is not None

    def totals(self) -> Counter[tuple[str, str]]:
        """Bytes so far by (role, direction); subtract two of these to see what a step has moved."""
        return self._bytes.copy()


def by_role(num_bytes: Counter[tuple[str, str]]) -> dict[str, dict[str, int]]:
    """Every role of a running model with its bytes down and up, zeros included."""
    return {role: {way: num_bytes[role, way] for way in (DOWN, UP)} for role in ROLES if role != WEIGHTS}
