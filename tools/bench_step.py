"""Times one expert step of a format, in turn with a read of memory and with ggml, on one vector level.

Shapes: T rows, K experts per row, D hidden.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

import experts
from experts import FORMATS, ExpertLayer, isa, moe_ffn
from experts.products.frame import MAX_ROWS
from offload.hardware.probe import PROBE_BYTES, Probe
from offload.profiling.expert_speed import laid_out
from offload.profiling.random_layer import random_layer

from .bench_ggml import Ggml, GgmlLayer, GgmlStep, available

SETS = ("constant", "disjoint")  # all rows choose the same experts; no two rows share one
_PROBE_SHARE = 0.25
_SETTLE_S = 0.03  # between ours and ggml, whose idle threads first spin for milliseconds and hold a core
Run = Callable[[NDArray[np.int32]], object]  # a step with these expert ids (T, K)


@dataclass(frozen=True)
class Shape:
    num_experts: int
    top_k: int
    hidden: int
    ffn: int


@dataclass(frozen=True)
class Timing:
    """One line of the report."""

    level: str
    format: str  # in a file
    layout: str
    experts: str  # of SETS
    rows: int
    seconds: float
    bytes_read: int  # each distinct expert once
    roofline_bytes_per_s: float  # measured right before and after each step
    share: float  # of the roofline around it, the median step
    ggml_s: float | None
    ggml_repacked_s: float | None

    @property
    def bytes_per_s(self) -> float:
        return self.bytes_read / self.seconds

    def as_json(self) -> dict[str, object]:
        return asdict(self) | {"bytes_per_s": self.bytes_per_s}


class Bench:
    """Times steps with everything that they are compared with; one layer is in memory at a time."""

    def __init__(self, shape: Shape, repeats: int, with_ggml: bool) -> None:
        self.shape, self.repeats, self.probe = shape, repeats, Probe()
        self.ggml = Ggml(experts.num_threads()) if with_ggml and available() else None

    def run(self, name: str, layouts: list[str], sets: list[str], rows: list[int]) -> Iterator[Timing]:
        """All combinations for one format; rows for which there are not enough experts are left out."""
        shape, fmt = self.shape, FORMATS[name]
        native = random_layer(fmt, shape.num_experts, shape.hidden, shape.ffn)
        peers = {}
        if self.ggml:
            peers = {"ggml": GgmlLayer(self.ggml, native, False), "ggml_repacked": GgmlLayer(self.ggml, native, True)}
        for layout in layouts:
            layer = laid_out(native, layout)
            if layer is None:
                continue
            experts.prepare([layer.gate.format], min(max(rows), MAX_ROWS), interleaved=layout != "native")
            for experts_of_rows in sets:
                for T in rows:
                    distinct = shape.top_k * (1 if experts_of_rows == "constant" else T)
                    if distinct <= shape.num_experts:
                        able = {name: peer for name, peer in peers.items() if peer.runs}
                        yield self._time(name, layer, layout, experts_of_rows, T, able)
        for peer in peers.values():
            peer.free()

    def _time(
        self, name: str, layer: ExpertLayer, layout: str, chosen: str, T: int, peers: dict[str, GgmlLayer]
    ) -> Timing:
        K = self.shape.top_k
        x_TD = np.random.default_rng(1).standard_normal((T, layer.hidden), dtype=np.float32)
        weights_TK = np.full((T, K), 1 / K, np.float32)
        steps = {name: GgmlStep(peer, T, K) for name, peer in peers.items()}
        runs: dict[str, Run] = {"ours": lambda ids_TK: moe_ffn(x_TD, ids_TK, weights_TK, layer)}
        runs |= {name: partial(step.run, x_TD) for name, step in steps.items()}
        seconds, reads = self._in_turn(runs, chosen, T)
        for step in steps.values():
            step.free()
        bytes_read = K * (1 if chosen == "constant" else T) * layer.expert_bytes
        rooflines = _PROBE_SHARE * PROBE_BYTES / reads
        medians = {name: statistics.median(times) for name, times in seconds.items()}
        return Timing(
            isa.level(), name, layout, chosen, T, medians["ours"], bytes_read,
            float(np.median(rooflines)), float(np.median(bytes_read / np.array(seconds["ours"]) / rooflines)),
            medians.get("ggml"), medians.get("ggml_repacked"),
        )  # fmt: skip

    def _in_turn(self, runs: dict[str, Run], chosen: str, T: int) -> tuple[dict[str, list[float]], NDArray[np.float64]]:
        """Seconds of each, and what a read of memory took around each run of ours, because memory's speed moves.

        Every run meets other experts than the one before, so that none are in a cache.
        """
        K, offset = self.shape.top_k, 0
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        reads: list[float] = []
        for _ in range(self.repeats):
            for name, run in runs.items():
                time.sleep(_SETTLE_S)
                for counts in (False, True, True):
                    ids = np.arange(K if chosen == "constant" else T * K, dtype=np.int32) + np.int32(offset)
                    ids_TK = np.resize(ids % self.shape.num_experts, (T, K)).astype(np.int32)
                    offset = (offset + ids.size) % self.shape.num_experts
                    before_s = self._read_s() if name == "ours" else 0.0
                    started = time.perf_counter()
                    run(ids_TK)
                    ended = time.perf_counter()
                    if counts:
                        seconds[name].append(ended - started)
                    if counts and name == "ours":
                        reads.append((before_s + self._read_s()) / 2)
        return seconds, np.array(reads)

    def _read_s(self) -> float:
        """Seconds to read a part of the probe on all threads."""
        started = time.perf_counter()
        self.probe.read(_PROBE_SHARE)
        return time.perf_counter() - started
