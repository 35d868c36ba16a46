"""The whole profile of this machine, stage by stage, each within its share of the time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import experts
from experts import FORMATS
from experts.threads.topology import topology

from ..backends.devices import usable_accelerators
from ..errors import HardwareError
from ..hardware import SCHEMA, Accelerator, Disk, Hardware, Latency, Link, Ram, limits
from ..hardware.machine import program_version, this_machine
from ..hardware.probe import PROBE_BYTES, Probe
from ..hardware.speeds import MANY_ROWS
from . import caches, disk, expert_speed, latencies, nodes, ram
from .random_layer import random_layer
from .samples import in_turn
from .stages import Progress, Stages

if TYPE_CHECKING:
    from .layer import Beside

LEAST_CACHES = 2  # the probe is at least so many times as large as the last-level caches
LEAST_BYTES = 64 << 20
FREE_SHARE = 0.5  # of free memory that is taken at most

QUICK_FORMATS = ("Q4_K", "Q6_K", "Q8_0")
FULL_FORMATS = (
    "Q4_K", "Q6_K", "Q8_0", "Q5_K", "Q3_K", "Q2_K", "Q4_0", "Q5_0", "Q5_1", "IQ4_XS", "IQ4_NL", "IQ3_S", "IQ3_XXS",
    "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S", "MXFP4",
)  # fmt: skip


@dataclass(frozen=True)
class Scope:
    """What is measured, and for how long."""

    seconds: float = 90.0
    formats: Sequence[str] = FULL_FORMATS
    rows: Sequence[int] = (1, 2, 3, 4, 6, MANY_ROWS)
    disk_folder: Path | None = None  # None: no disk
    disk_bytes: int = 2 << 30
    devices: Sequence[str] | None = ()  # accelerators by torch's names; None for all that torch can use


QUICK = Scope(seconds=10.0, formats=QUICK_FORMATS, rows=(1, 2, 4, MANY_ROWS), disk_bytes=256 << 20)


class Found(NamedTuple):
    """Of an accelerator."""

    link: Link
    accelerator: Accelerator
    hand_off_s: float  # a layer's round trip


@dataclass
class Profile:
    """Measures within a scope; `notes` say what could not be measured, and why.

    Raises:
        HardwareError: too little memory is free for figures that mean something.
    """

    scope: Scope
    progress: Progress = lambda what, done: None
    notes: list[str] = field(default_factory=list)

    def prepare(self) -> Iterator[tuple[int, int]]:
        """Compiles or loads the kernels that will be measured; kernels ready, and kernels in all."""
        for name in self.scope.formats:
            if name not in FORMATS:
                raise HardwareError(f"format {name!r} is unknown; choose of {', '.join(FORMATS)}")
        kinds = [
            (expert_speed.format_in(FORMATS[name], layout), layout != "native")
            for name, layouts in self.layouts().items()
            for layout in layouts
        ]
        yield from experts.preparing(kinds, max(self.scope.rows))
        for name, layouts in self.layouts().items():
            for layout in layouts:
                expert_speed.laid_out(random_layer(FORMATS[name], 1, 256, 256), layout)
        self._beside(0.0)
        latencies.region(0.0)
        Probe(LEAST_BYTES).copy_half()

    def run(self) -> Hardware:
        """All stages, which share the time that is left."""
        stage = Stages(self.scope.seconds, self.progress)
        measured_ram, by_node = stage("ram", self._ram), stage("nodes", self._nodes)
        speeds, beside = stage("kernels", partial(self._kernels, stage)), stage("layer", self._beside)
        read_by_size, latency = stage("caches", self._caches), stage("latencies", self._latencies)
        found_disk, links = stage("disk", self._disk), stage("links", self._links)
        self.progress("done", 1.0)
        tables: dict[str, dict[str, dict[int, float]]] = {layout: {} for layout in expert_speed.LAYOUTS}
        long_rows: dict[str, dict[str, float]] = {layout: {} for layout in expert_speed.LAYOUTS}
        for speed in speeds:
            tables[speed.layout][speed.format] = speed.bytes_per_s(beside.call_s)
            long_rows[speed.layout][speed.format] = speed.long_rows
        return Hardware(
            schema=SCHEMA,
            version=program_version(),
            machine=this_machine(),
            busy=stage.watch.result(),
            ram=replace(measured_ram, read_by_size=read_by_size, by_node=by_node),
            links={name: found.link for name, found in links.items()},
            accelerators={name: found.accelerator for name, found in links.items()},
            disk=found_disk,
            kernels=tables["native"] | tables["interleaved"] | tables["expanded"],
            kernels_native=tables["native"],
            long_rows=long_rows["native"] | long_rows["interleaved"] | long_rows["expanded"],
            long_rows_native=long_rows["native"],
            latency_s=replace(
                latency,
                hand_off={name: found.hand_off_s for name, found in links.items()},
                layer=beside.layer_s,
                step=beside.step_s,
                experts=beside.hand_over_s,
            ),
            attention_flops=beside.attention_flops,
        )

    def _ram(self, budget_s: float) -> Ram:
        probe = Probe(probe_bytes(limits.free_memory(), caches.last_level_cache_bytes()))
        probe.read()
        by_threads = ram.read_by_threads(probe, ram.default_counts(), 0.6 * budget_s)
        copies = in_turn({0: probe.copy_half}, 0.2 * budget_s)[0]
        del probe.data
        small = Probe(probe.num_bytes, huge_pages=False)
        small_pages = in_turn({0: small.read}, 0.2 * budget_s)[0]
        rates = {n: sample.rate(probe.num_bytes) for n, sample in by_threads.items()}
        return Ram(
            read_bytes_per_s=rates,
            knee_threads=ram.knee(rates),
            copy_bytes_per_s=copies.rate(probe.num_bytes // 2),
            spread={n: sample.spread for n, sample in by_threads.items()},
            small_pages_bytes_per_s=small_pages.rate(probe.num_bytes),
            cache_bytes=caches.cache_bytes(),
        )

    def _caches(self, budget_s: float) -> dict[int, float]:
        size = max(LEAST_BYTES, 2 * caches.last_level_cache_bytes() // max(1, len(topology().cores)))
        return caches.read_by_size(Probe(min(size, PROBE_BYTES)), budget_s)

    def _nodes(self, budget_s: float) -> dict[str, float]:
        try:
            return nodes.read_by_node(LEAST_BYTES * 4, budget_s)
        except OSError as error:
            self.notes.append(f"memory nodes are left out: the system does not let memory be bound ({error.strerror})")
            return {}

    def _kernels(self, stage: Stages, budget_s: float) -> list[expert_speed.Speed]:
        found: list[expert_speed.Speed] = []
        each_s = budget_s / len(self.scope.formats) / 2  # the other half is for making weights
        for i, (name, layouts) in enumerate(self.layouts().items()):
            need, free = expert_speed.layer_bytes(name, layouts), limits.free_memory()
            if need > FREE_SHARE * free:
                self.notes.append(f"{name} is left out: it needs {need / 1e9:.1f} GB, half of free memory is less")
                continue
            stage.part("kernels", name, i / len(self.scope.formats))
            found += expert_speed.measure_format(name, self.scope.rows, each_s, layouts)
        return found

    def layouts(self) -> dict[str, list[str]]:
        """In which each format is measured. Several become the same when they are expanded: one of them is enough."""
        found: dict[str, list[str]] = {}
        wide = dict[experts.Format, str]()  # and who becomes it first
        for name in self.scope.formats:
            fmt = FORMATS[name]
            found[name] = ["native"]
            if experts.can_interleave(fmt, experts.PANEL_ROWS):
                found[name].append("interleaved")
            becomes = experts.expanded_format(fmt, experts.PANEL_ROWS)
            if becomes and wide.setdefault(becomes, name) == name:
                found[name].append("expanded")
        return found

    def _beside(self, budget_s: float) -> Beside:
        from .layer import beside_weights  # which needs torch: only who measures waits for that

        return beside_weights(self.scope.formats[0], budget_s)

    def _latencies(self, budget_s: float) -> Latency:
        return Latency(latencies.region(budget_s / 2), latencies.wake(budget_s / 2))

    def _disk(self, budget_s: float) -> Disk | None:
        if self.scope.disk_folder is None:
            return None
        try:
            found = disk.measure_disk(self.scope.disk_folder, self.scope.disk_bytes, budget_s)
        except disk.DiskError as error:
            self.notes.append(f"the disk is left out: {error}")
            return None
        if found.cached:
            self.notes.append("the system does not let the disk's cache be dropped: the disk's figure is the cache's")
        return found

    def _links(self, budget_s: float) -> dict[str, Found]:
        names = usable_accelerators() if self.scope.devices is None else self.scope.devices
        if not names:
            self.notes.append("torch sees no accelerator: links and accelerators are left out")
            return {}
        import torch

        from .accelerators import measure_accelerator
        from .links import hand_off_s, measure_link

        found = {}
        for name in names:
            device, each_s = torch.device(name), budget_s / len(names)
            link = measure_link(device, 0.6 * each_s)
            found[name] = Found(link, measure_accelerator(device, 0.3 * each_s), hand_off_s(device, 0.1 * each_s))
        return found


def probe_bytes(free: int, cache_bytes: int) -> int:
    """Of the memory that is read: four times the caches if there is room, a whole number of MiB.

    Raises:
        HardwareError: not even twice the caches fit into what may be taken.
    """
    least, room = max(LEAST_BYTES, LEAST_CACHES * cache_bytes), int(FREE_SHARE * free)
    if room < least:
        raise HardwareError(
            f"reading memory needs {least / 1e6:.0f} MB, {LEAST_CACHES} times the caches, in half of what is free: "
            f"{free / 1e6:.0f} MB are free for this process. Close programs, or raise the limit of the control group"
        )
    return min(room, max(PROBE_BYTES, 4 * cache_bytes)) >> 20 << 20
