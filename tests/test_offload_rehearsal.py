"""Steps before the first request: what they measure, and that they leave nothing behind."""

from pathlib import Path

import numpy as np
import pytest

import offload
from offload.drafting import MtpDrafter
from offload.rehearsal import LENGTHS, MOST_MEASURED, rehearse
from offload.step_cost import step_cost_of
from offload.transformer.mtp import MtpBlock
from scheduler.cost import DRAFT, EXPERTS, FILL, ROWS


@pytest.fixture(scope="module")
def model(tiny_path: Path) -> offload.LanguageModel:
    return offload.load(tiny_path, context=64)


@pytest.fixture(autouse=True)
def no_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Busy machines measure as many steps as others."""
    monkeypatch.setattr("offload.rehearsal.LONGEST_S", 100)


@pytest.mark.parametrize("with_mtp", [True, False])
def test_steps_of_each_length_are_measured(model: offload.LanguageModel, with_mtp: bool) -> None:
    mtp: MtpBlock | None = model.mtp if with_mtp else None
    measured = rehearse(model.trunk, MtpDrafter(mtp) if mtp else None, step_cost_of(model.trunk, mtp))
    assert len(measured) >= MOST_MEASURED
    assert all(seconds > 0 for _, seconds in measured)
    verified = [parts for parts, _ in measured if parts[EXPERTS]]
    assert len({round(parts[ROWS], 12) for parts in verified}) == len(LENGTHS)
    drafted = [parts for parts, _ in measured if parts[DRAFT] or parts[FILL]]
    assert bool(drafted) == with_mtp


def test_costs_are_known_before_the_first_request_and_its_text_is_the_same(
    model: offload.LanguageModel, tiny_path: Path
) -> None:
    cold = offload.load(tiny_path, context=64)
    assert cold._policy.auto.correction.num_observed == 0
    expected = cold.generate("def fib(n):", max_tokens=24, temperature=0, draft=0).finish().tokens
    model.warm_up()
    assert model._policy.auto.correction.num_observed >= MOST_MEASURED
    assert model.generate("def fib(n):", max_tokens=24, temperature=0).finish().tokens == expected
    np.testing.assert_array_equal(model.logits([1, 2, 3]), cold.logits([1, 2, 3]))
