"""Which slot a sequence gets, and how much of what stands there it may go on from."""

import pytest

from offload.sampling import Sampler, SamplingParams
from offload.sequence import Sequence
from offload.slots import Slots

BLOCK, OTHER = object(), object()  # drafters that keep a state of their own


def sequence(*token_ids: int) -> Sequence:
    return Sequence(0, list(token_ids), 100, Sampler(SamplingParams()), frozenset())


def run(slots: Slots, *token_ids: int, keeper: object | None = None) -> tuple[int, int]:
    """Slot and reused positions of a sequence that runs until all but its last token are cached."""
    s = sequence(*token_ids)
    slots.take(s, keeper)
    found = s.slot, s.num_cached
    s.num_cached = len(token_ids) - 1
    slots.leave(s)
    return found


def test_the_longest_shared_prefix_wins_and_else_the_oldest() -> None:
    slots = Slots(3)
    assert run(slots, 1, 2, 3, 4, 5, 6) == (0, 0)
    assert run(slots, 1, 2, 3, 4, 9, 9) == (0, 3), "the last shared token is computed again"
    assert run(slots, 7, 7, 7, 7) == (1, 0)
    assert run(slots, 1, 2, 3, 4, 9, 9, 4, 4) == (0, 5)
    assert run(slots, 8, 8, 8) == (2, 0)
    assert run(slots, 5, 5, 5) == (1, 0), "slot 0 was used after it"
    assert run(slots, 1, 2, 3, 4, 9, 9, 4, 5, 6) == (0, 6)


def test_a_few_shared_tokens_do_not_cost_another_its_slot() -> None:
    slots = Slots(2)
    start = [1, 2, 3]
    assert run(slots, *start, *range(10, 40)) == (0, 0)
    assert run(slots, *start, *range(50, 80)) == (1, 0), "the other may go on"
    assert run(slots, *start, *range(50, 80), 4, 5) == (1, 32)


def test_busy_slots_are_left_alone_while_there_are_others() -> None:
    slots = Slots(2)
    first, second, third = sequence(1, 2, 3), sequence(1, 2, 3), sequence(4, 5)
    for s in (first, second):
        slots.take(s, None)
        s.num_cached = 2
    assert (first.slot, second.slot, slots.num_free) == (0, 1, 0)
    slots.take(third, None)
    assert not slots.holds(first)
    assert slots.holds(second)
    assert third.slot == 0
    slots.leave(first)
    assert slots.num_free == 0, "it has no slot to leave"
    slots.leave(third)
    assert slots.num_free == 1


@pytest.mark.parametrize("between", [None, OTHER])
def test_a_drafter_goes_on_only_from_what_it_was_shown(between: object | None) -> None:
    slots = Slots(1)
    text = list(range(20))
    assert run(slots, *text[:10], keeper=BLOCK) == (0, 0)
    assert run(slots, *text[:12], keeper=BLOCK) == (0, 9)
    # one without it goes on from all that stands there; another drafter with a state from nothing
    assert run(slots, *text[:16], keeper=between) == (0, 11 if between is None else 0)
    assert run(slots, *text, keeper=BLOCK) == (0, 11 if between is None else 0)
    assert run(slots, *text, 99, keeper=BLOCK) == (0, 19)


def test_a_text_that_turned_off_takes_what_the_drafter_knew_with_it() -> None:
    slots = Slots(1)
    text = list(range(20))
    run(slots, *text, keeper=BLOCK)
    assert run(slots, *text[:8], *range(50, 70)) == (0, 7)
    assert run(slots, *text[:8], *range(50, 90), keeper=BLOCK) == (0, 7)


def test_what_is_forgotten_is_not_reused() -> None:
    slots = Slots(2)
    run(slots, 1, 2, 3, keeper=BLOCK)
    slots.forget(0)
    assert run(slots, 1, 2, 3, keeper=BLOCK)[1] == 0
    slots.forget()
    assert [slot.num_cached for slot in (slots[0], slots[1])] == [0, 0]
