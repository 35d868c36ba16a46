"""The emulated device behaves as a GPU does: its tensors mix with no others, numpy cannot see them, its memory ends."""

import gc
from collections.abc import Callable

import numpy as np
import pytest
import torch

from offload.backends.emulated import CARDS, open_emulated
from offload.backends.emulated.clock import Clock
from offload.backends.emulated.tensor import MEMORY
from offload.errors import OptionError

open_emulated("", None, False)  # makes the device


def emulated(*shape: int) -> torch.Tensor:
    return torch.arange(np.prod(shape), dtype=torch.float32).reshape(shape).to("emulated")


@pytest.mark.parametrize(
    "mix",
    [
        lambda a, b: a + b,
        lambda a, b: b + a,
        lambda a, b: a @ b.T,
        lambda a, b: torch.cat([a, b]),
        lambda a, b: torch.where(b > 0, a, a),
        lambda a, b: a[b[0, :1].long()],
        lambda a, b: b[a[0, :1].long()],
        lambda a, b: a.mul_(b),
        lambda a, b: b.index_add_(0, torch.tensor([0]), a[:1]),
    ],
)
def test_mixing_devices_raises(mix: Callable[[torch.Tensor, torch.Tensor], object]) -> None:
    with pytest.raises(RuntimeError, match="same device"):
        mix(emulated(2, 3), torch.ones(2, 3))


def test_tensors_come_and_go() -> None:
    x = emulated(4, 6)
    assert x.device == torch.device("emulated:0")
    assert (x * 2 + 1).device == x.device
    assert x.to(torch.float64).device == x.device
    with pytest.raises(RuntimeError, match="numpy"):
        x.numpy()
    assert torch.equal(x.cpu(), torch.arange(24.0).reshape(4, 6))
    assert x[1, 2].item() == 8.0
    assert torch.zeros(3, device="emulated").device == x.device
    x.copy_(torch.ones(4, 6))
    assert x.cpu().sum() == 24


def test_views_share_memory_and_in_place_operations_reach_it() -> None:
    x = emulated(4, 6)
    x[1:][1:].mul_(0)
    x.T[0] += 100
    assert x.cpu()[:, 0].tolist() == [100, 106, 100, 100]
    assert x.cpu()[2:, 1:].abs().sum() == 0
    assert torch.equal(x.T[1:3].cpu(), x.cpu().T[1:3])
    assert torch.equal(x.view(torch.int32)[:, 1::2].cpu(), x.cpu().view(torch.int32)[:, 1::2])


def test_memory_is_counted_once_a_storage_and_ends() -> None:
    gc.collect()
    before, MEMORY.limit_bytes = MEMORY.used_bytes, MEMORY.used_bytes + 10_000
    x = emulated(1000)
    views = [x[10:], x.reshape(10, 100).T, x.view(torch.int32)]
    assert MEMORY.used_bytes == before + 4000
    y = x + 1
    assert MEMORY.used_bytes == before + 8000
    with pytest.raises(torch.OutOfMemoryError, match="tried to allocate 4,000 bytes"):
        x + y
    assert MEMORY.used_bytes == before + 8000
    del x, y
    assert MEMORY.used_bytes == before + 4000  # the views still stand on it
    views.clear()
    assert MEMORY.used_bytes == before
    MEMORY.limit_bytes = None


def test_the_clock_charges_the_larger_of_memory_and_arithmetic() -> None:
    card = CARDS["rtx-3090-pcie4"]
    clock = Clock(card)
    clock.kernel(936_000_000, 0)
    assert clock.device_s == pytest.approx(1e-3 + card.launch_s)
    clock.kernel(1000, 71_000_000_000)
    assert clock.device_s == pytest.approx(2e-3 + 2 * card.launch_s)
    clock.transfer(25_000_000)
    assert clock.link_s == pytest.approx(1e-3 + card.link_latency_s)


def test_unknown_cards_are_named() -> None:
    with pytest.raises(OptionError, match=r"'gtx-1'.*rtx-3090-pcie4"):
        open_emulated("gtx-1", None, False)
