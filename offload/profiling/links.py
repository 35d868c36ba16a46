"""The link between the host and an accelerator: each direction, pinned and pageable memory, by size; its latency."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from ..backends.handoff import Link as HandOff
from ..backends.handoff import OnHost
from ..hardware import Direction, Link
from ..ledger import Ledger
from .samples import in_turn

SIZES = tuple(1 << n for n in (12, 14, 16, 18, 20, 22, 24, 26, 28))  # 4 KiB to 256 MiB
SMALLEST = 4  # bytes, for the latency
HIDDEN_SIZE, TOP_K = 5120, 8  # of the row that a hand-off carries, GLM-4.7's


def synchronizer(device: torch.device) -> Callable[[], None]:
    """A function that waits until the device has nothing left to do."""
    module: Any = getattr(torch, device.type, None)
    if device.type == "mps":
        return torch.mps.synchronize  # type: ignore[no-any-return]
    return partial(module.synchronize, device) if device.type in ("cuda", "xpu") else lambda: None


def measure_link(device: torch.device, budget_s: float, sizes: tuple[int, ...] = SIZES) -> Link:
    """Each transfer with nothing else under way; seconds until the host knows that it is done."""
    wait, can_pin = synchronizer(device), device.type in ("cuda", "xpu")
    runs: dict[tuple[str, str, int], Callable[[], None]] = {}
    for size in (SMALLEST, *sizes):
        there = torch.zeros(size, dtype=torch.uint8, device=device)
        for memory in ("pinned", "pageable") if can_pin else ("pageable",):
            here = torch.zeros(size, dtype=torch.uint8, pin_memory=memory == "pinned")
            runs["up", memory, size] = partial(_copy, there, here, wait)
            runs["down", memory, size] = partial(_copy, here, there, wait)
    samples = in_turn(runs, budget_s)
    rates = {key: sample.rate(key[2]) for key, sample in samples.items()}

    def direction(way: str) -> Direction:
        pinned, pageable = (
            {n: rates[way, m, n] for n in sizes if (way, m, n) in rates} for m in ("pinned", "pageable")
        )
        best = "pinned" if can_pin else "pageable"
        latency_s = samples[way, best, SMALLEST].median
        return Direction(max((pinned or pageable).values()), latency_s, pinned, pageable)

    return Link(down=direction("down"), up=direction("up"))


def _copy(target: torch.Tensor, source: torch.Tensor, wait: Callable[[], None]) -> None:
    target.copy_(source, non_blocking=True)
    wait()


def hand_off_s(device: torch.device, budget_s: float) -> float:
    """A layer's round trip with one row, as the runtime makes it: activations and routing down, sums up."""
    link, wait = HandOff(device, Ledger()), synchronizer(device)
    x_TD = torch.zeros(1, HIDDEN_SIZE, device=device)
    ids, weights = (torch.zeros(1, TOP_K, dtype=kind, device=device) for kind in (torch.int32, torch.float32))

    def round_trip() -> None:
        sent = link.send(x_TD, ids, weights)
        link.mark()
        link.arrived()
        sums_TD = link.buffer(1, HIDDEN_SIZE)
        sums_TD.numpy()[:] = sent.x_TD
        link.receive(OnHost(sums_TD))
        wait()

    return in_turn({0: round_trip}, budget_s)[0].median
