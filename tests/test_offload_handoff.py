"""The hand-off: plain copies, and the events and pinned buffers of CUDA on a stand-in that records their order."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from expert_data import random_rows

import experts
from offload.backends import handoff
from offload.backends.handoff import MOST_REPLAYED, Link
from offload.ledger import HIDDEN, LOGITS, TOKENS, Ledger
from offload.transformer.backend import Routed

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


def through(link: Link, layer: experts.ExpertLayer, T: int, seed: int) -> tuple[torch.Tensor, Routed]:
    sent = link.send(*(torch.from_numpy(part) for part in rows_of(T, seed)))
    routed = link.start_experts(sent, layer)
    return link.receive(routed.wait()), routed


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Of CUDA's events; everything runs at once, and memory is not pinned."""
    calls: list[str] = []
    event = SimpleNamespace(record=lambda: calls.append("event"), synchronize=lambda: calls.append("host waits"))
    monkeypatch.setattr(torch.cuda, "Event", lambda: event)
    empty = torch.empty
    monkeypatch.setattr(handoff.torch, "empty", lambda *size, pin_memory=False, **kw: empty(*size, **kw))
    return calls


def lane_link() -> Link:
    link = Link(torch.device("cpu"), Ledger())
    link._lane = handoff._Lane()
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


def test_the_host_waits_once_a_layer(calls: list[str], layer: experts.ExpertLayer) -> None:
    """The same buffers serve every layer, also with more rows, and give the same results."""
    link = lane_link()
    for T, seed in ((2, 1), (MOST_REPLAYED + 4, 2), (1, 3), (MOST_REPLAYED + 9, 4), (2, 5)):
        calls.clear()
        sums, routed = through(link, layer, T, seed)
        x, ids, weights = rows_of(T, seed)
        assert np.array_equal(sums.numpy(), experts.moe_ffn(x, ids, weights, layer))
        assert np.array_equal(routed.expert_ids_TK, ids)
        assert calls == ["event", "host waits"]


def test_buffers_of_few_rows_stay_where_they_are(calls: list[str]) -> None:
    """Whatever crosses between: what was recorded reads and writes there."""
    link = lane_link()

    def addresses(T: int) -> list[int]:
        sent = link.send(*(torch.from_numpy(part) for part in rows_of(T, 0)))
        arrays = (sent.x_TD, sent.expert_ids_TK, sent.weights_TK, link.buffer(T, D).numpy())
        return [array.ctypes.data for array in arrays]

    before = [addresses(T) for T in (1, 2, MOST_REPLAYED)]
    assert len({address for some in before for address in some}) == 12
    addresses(MOST_REPLAYED + 1), addresses(200), link.down(LOGITS, torch.ones(3, 400))
    assert [addresses(T) for T in (1, 2, MOST_REPLAYED)] == before


def test_what_was_read_back_stays(calls: list[str]) -> None:
    """A buffer is used again; results that outlive the step are copies."""
    link = lane_link()
    first = link.down(LOGITS, torch.ones(2, 3))
    link.down(LOGITS, torch.zeros(2, 3))
    assert first.tolist() == [[1, 1, 1], [1, 1, 1]]
    assert link.up(TOKENS, np.arange(3)).tolist() == [0, 1, 2]
    assert link.ledger.totals()[HIDDEN, "down"] == 0
