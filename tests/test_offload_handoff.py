"""The hand-off: plain copies, and the streams and pinned buffers of CUDA on a stand-in that records their order."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from expert_data import random_rows

import experts
from offload.backends import handoff
from offload.backends.handoff import Link, RoutedOnHost
from offload.backends.ledger import HIDDEN, LOGITS, SUMS, TOKENS, Ledger

E, F, D = 4, 64, 96


@pytest.fixture(scope="module")
def layer() -> experts.ExpertLayer:
    rng, kind = np.random.default_rng(0), experts.FORMATS["Q8_0"]
    return experts.ExpertLayer(
        *(
            experts.MatrixStack.from_bytes(kind, E, rows, columns, random_rows("Q8_0", E * rows, columns, rng))
            for rows, columns in ((F, D), (F, D), (D, F))
        )
    )


def rows_of(T: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x, weights = (rng.standard_normal(shape).astype(np.float32) for shape in ((T, D), (T, 2)))
    return x, rng.integers(0, E, (T, 2)).astype(np.int32), weights


def through(link: Link, layer: experts.ExpertLayer, T: int, seed: int) -> tuple[torch.Tensor, RoutedOnHost]:
    routed = link.start_experts(*(torch.from_numpy(part) for part in rows_of(T, seed)), layer)
    return routed.wait(), routed


class Recorder:
    """Stands in for torch.cuda: everything runs at once, and says so."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        recorder = self

        class Stream:
            def __init__(self, device: Any = None, name: str = "side"):
                self.name = name

            def wait_stream(self, other: "Stream") -> None:
                recorder.calls.append(f"{self.name} waits for {other.name}")

            def record_event(self) -> Any:
                recorder.calls.append(f"event on {self.name}")
                return self

            def synchronize(self) -> None:
                recorder.calls.append("host waits")

        self.Stream = Stream
        self._main = Stream(name="main")

    def current_stream(self, device: Any) -> Any:
        return self._main

    @contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        self.calls.append(f"on {stream.name}")
        yield


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr(torch, "cuda", recorder)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: recorder.calls.append("kept"))
    empty = torch.empty
    monkeypatch.setattr(handoff.torch, "empty", lambda *size, pin_memory=False, **kw: empty(*size, **kw))
    return recorder


def lane_link(device: str = "cpu") -> Link:
    link = Link(torch.device(device), Ledger())
    link._lane = handoff._Lane(torch.device(device))
    return link


def test_experts_on_the_host(layer: experts.ExpertLayer) -> None:
    link = Link(torch.device("cpu"), Ledger())
    sums, routed = through(link, layer, 5, seed=1)
    x, ids, weights = rows_of(5, 1)
    assert np.array_equal(sums.numpy(), experts.moe_ffn(x, ids, weights, layer))
    assert np.array_equal(routed.expert_ids_TK, ids)
    assert link.ledger.totals() == {
        ("hidden", "down"): 5 * D * 4, ("routing", "down"): 5 * 2 * 8, ("sums", "up"): 5 * D * 4
    }  # fmt: skip


def test_streams_wait_in_the_right_order(recorder: Recorder, layer: experts.ExpertLayer) -> None:
    """Down: the side stream starts when the rows are computed, the host when they have come. Up: the main stream waits.

    The same buffers serve every layer, also with more rows, and give the same results.
    """
    link = lane_link()
    for T, seed in ((2, 1), (5, 2), (1, 3)):
        recorder.calls.clear()
        sums, routed = through(link, layer, T, seed)
        x, ids, weights = rows_of(T, seed)
        assert np.array_equal(sums.numpy(), experts.moe_ffn(x, ids, weights, layer))
        assert np.array_equal(routed.expert_ids_TK, ids)
        down = ["side waits for main", "on side", "kept", "event on side"]
        assert recorder.calls == [*down, *down, "host waits", "host waits", "on side", "main waits for side", "kept"]


def test_what_was_read_back_stays(recorder: Recorder) -> None:
    """A buffer is used again; results that outlive the step are copies."""
    link = lane_link()
    first = link.down(LOGITS, torch.ones(2, 3))
    link.down(LOGITS, torch.zeros(2, 3))
    assert first.tolist() == [[1, 1, 1], [1, 1, 1]]
    assert link.up(TOKENS, np.arange(3)).tolist() == [0, 1, 2]
    assert link.buffer(SUMS, 2, 3).shape == (2, 3)
    assert link.ledger.totals()[HIDDEN, "down"] == 0
