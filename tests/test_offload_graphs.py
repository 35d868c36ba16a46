"""Replayed work gives what it gives as it stands. Without a GPU a recording is the work itself, done again."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from drafters import AlwaysRight
from test_offload_speculation import CutPlan, RandomCuts
from torch import Tensor

import offload
import offload.backends.cuda
from offload.backends import handoff
from offload.backends.cuda.graphs import MOST_SIZES, Graphs
from offload.backends.eager import EagerBackend
from offload.backends.eager.rows import DeviceRows
from offload.backends.handoff import MOST_REPLAYED
from offload.transformer.rows import Rows
from tools.eagle_drafter import EagleDrafter

PROMPT = [5, 17, 60, 5, 17]


class Again:
    """Records work as something to do again, and counts both."""

    def __init__(self) -> None:
        self.recorded = self.replayed = 0

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        self.recorded += 1

        def replay() -> None:
            self.replayed += 1
            work()

        return replay


def rows_at(*positions: int) -> DeviceRows:
    host = Rows(np.array(positions), np.zeros(len(positions), np.int64), np.array(positions))
    return DeviceRows(host, *(torch.from_numpy(part) for part in (host.token_ids, host.slots, host.positions)))


def add_positions(rows: DeviceRows, x: Tensor, y: Tensor | None) -> tuple[Any, ...]:
    return x + rows.positions, None if y is None else x * y, "sent"


def test_work_is_recorded_the_second_time() -> None:
    recorder = Again()
    graphs = Graphs(recorder)
    seen = []
    for i in range(5):
        x = torch.full((2,), float(i))
        out, product, sent = graphs.run(("a",), add_positions, rows_at(i, 7), 1, x, x)
        assert (out.tolist(), product.tolist(), sent) == ([2.0 * i, i + 7.0], [float(i * i)] * 2, "sent")
        assert x.tolist() == [float(i)] * 2  # nobody writes into what was given
        seen.append((recorder.recorded, recorder.replayed))
    assert seen == [(0, 0), (1, 0), (1, 1), (1, 2), (1, 3)]


def test_names_numbers_of_rows_and_ranges_are_recorded_each() -> None:
    recorder = Again()
    graphs = Graphs(recorder)
    for _ in range(3):
        for name, rows, ranges, y in (("a", 1, 1, None), ("a", 2, 1, None), ("a", 2, 4, None), ("b", 2, 4, 1)):
            x = torch.ones(rows)
            out, product, _ = graphs.run((name,), add_positions, rows_at(*range(rows)), ranges, x, x if y else None)
            assert out.tolist() == [1.0 + row for row in range(rows)]
            assert (product is None) == (y is None)
    assert (recorder.recorded, recorder.replayed) == (4, 4)


def test_many_rows_are_not_recorded() -> None:
    recorder = Again()
    graphs = Graphs(recorder)
    for _ in range(3):
        graphs.run(("a",), add_positions, rows_at(*range(MOST_REPLAYED + 1)), 1, torch.ones(MOST_REPLAYED + 1), None)
    assert recorder.recorded == 0


def test_what_was_used_longest_ago_is_forgotten() -> None:
    recorder = Again()
    graphs = Graphs(recorder)

    def run(ranges: int) -> None:
        graphs.run(("a",), add_positions, rows_at(3), ranges, torch.ones(1), None)

    for ranges in range(1, MOST_SIZES + 1):
        run(ranges), run(ranges)
    run(1), run(MOST_SIZES + 1)  # the second one goes
    assert (recorder.recorded, recorder.replayed) == (MOST_SIZES, 1)
    run(1), run(3), run(2)
    assert (recorder.recorded, recorder.replayed) == (MOST_SIZES, 3)
    run(2)
    assert recorder.recorded == MOST_SIZES + 1


def test_one_recording_feeds_another_without_a_copy() -> None:
    """Where the first one's output comes from elsewhere, it is copied to where the second one reads."""
    graphs, rows = Graphs(Again()), rows_at(1, 2)
    for i in range(4):
        (x,) = graphs.run(("first",), lambda rows, x: (x + 1,), rows, 1, torch.full((2,), float(i)))
        (y,) = graphs.run(("second",), lambda rows, x: (x * 10,), rows, 1, x)
        assert y.tolist() == [10.0 * (i + 1)] * 2
    second = graphs._sizes[2, 1].recordings["second",]
    assert second is not None
    assert second.inputs[0] is x
    (y,) = graphs.run(("second",), lambda rows, x: (x * 10,), rows, 1, torch.tensor([7.0, 8.0]))
    assert y.tolist() == [70.0, 80.0]


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Again]:
    """`cuda` is plain torch on the CPU, with the hand-off and the replays of CUDA."""
    pytest.importorskip("triton")
    from offload.backends.cuda.backend import CudaBackend

    recorder, empty = Again(), torch.empty
    event = SimpleNamespace(record=lambda: None, synchronize=lambda: None)
    monkeypatch.setattr(torch.cuda, "Event", lambda: event)
    monkeypatch.setattr(handoff.torch, "empty", lambda *size, pin_memory=False, **kw: empty(*size, **kw))

    class Replaying(EagerBackend):
        replay, lasting = CudaBackend.replay, CudaBackend.lasting

        def __init__(self, name: str, check: bool):
            super().__init__(name, torch.device("cpu"), check)
            self.graphs = Graphs(recorder)
            self._link._lane = handoff._Lane()

    monkeypatch.setattr(offload.backends.cuda, "open_cuda", Replaying)
    yield recorder
    assert recorder.replayed > 20


@pytest.mark.parametrize("host_layers", [0, 2, 99])
def test_replayed_steps_give_the_same_bits(glm_path: Path, recorder: Again, host_layers: int) -> None:
    """Logits of tokens one by one, text with drafts and cuts, taps; experts on the host and on the device."""
    model = offload.load(glm_path, cache_type="f32", device="cuda", n_cpu_moe=host_layers, chunk_size=1, context=64)
    token_ids = [*PROMPT, *range(30, 34)]
    replayed = model.logits(token_ids)
    sampling: dict[str, Any] = {"max_tokens": 12, "temperature": 0.7, "seed": 3}
    plain = model.generate(PROMPT, draft=0, **sampling).finish().tokens
    before = CutPlan.cuts
    for drafter in (AlwaysRight(PROMPT, plain), EagleDrafter(model.trunk, 1, np.random.default_rng(0))):
        generation = model.generate(PROMPT, draft=3, drafter=drafter, **sampling)
        generation._engine.policy = RandomCuts(3)
        assert generation.finish().tokens == plain
    assert (CutPlan.cuts > before) == (host_layers > 0)
    drafted = model.generate(PROMPT, draft=2, drafter="mtp", **sampling).finish()
    model.backend.graphs = None  # type: ignore[attr-defined]
    assert np.array_equal(model.logits(token_ids), replayed)
    again = model.generate(PROMPT, draft=2, drafter="mtp", **sampling).finish()
    assert again.tokens == drafted.tokens == plain
    assert again.acceptance.by_position == drafted.acceptance.by_position
    assert again.bytes_crossed == drafted.bytes_crossed


def test_states_of_the_mtp_block_outlast_the_next_replay(glm_path: Path, recorder: Again) -> None:
    """Those of one sequence wait for a draft while another one is run."""
    model = offload.load(glm_path, cache_type="f32", device="cuda", context=64)
    block, backend = model.mtp, model.backend
    assert block is not None
    hidden_TD = model.trunk.run(backend.rows(Rows.consecutive(0, 0, PROMPT))).hidden_TD

    def states() -> list[Tensor]:
        """Of each token alone."""
        found = []
        for i, token_id in enumerate(PROMPT):
            pairs = backend.rows(Rows.consecutive(0, i, [token_id]))
            u_TD = block.fill(pairs, hidden_TD[i : i + 1])
            found += [u_TD, block.finish(pairs, u_TD)[0]]
        return found

    replayed = [state for _ in range(3) for state in states()]
    backend.graphs = None  # type: ignore[attr-defined]
    assert all(torch.equal(a, b) for a, b in zip(replayed, 3 * states(), strict=True))
