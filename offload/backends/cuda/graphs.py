"""Work that is queued again and again in the same way is recorded once, as a CUDA graph, and replayed by one launch.

A layer is some twenty kernels, each of which takes Python longer to launch than the device to run. So work for few rows
is run as it stands the first time, recorded the second time, and replayed from then on. What differs from time to time
(rows, states) stands in tensors that a recording has for its own; all else must be the same whenever its name is.

Recordings are made for a number of rows and of ranges that attention looks at. Longer texts need others, and those
used longest ago are forgotten.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ...transformer.backend import Name, Work
from ..eager.rows import DeviceRows
from ..handoff import MOST_REPLAYED

MOST_SIZES = 8  # numbers of rows and ranges that are kept


class Recorder(Protocol):
    """Records what is queued on a device."""

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Runs `work` without the device computing any of it; what it returns makes the device compute it."""
        ...


class GraphRecorder:
    """Records graphs of CUDA, whose passing values share one pool of memory: they run one after the other."""

    def __init__(self, device: torch.device):
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            graph.capture_begin(self._pool, capture_error_mode="thread_local")
            try:
                work()
            finally:
                graph.capture_end()
        current.wait_stream(self._stream)
        return graph.replay  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Recording:
    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]
    replay: Callable[[], None]


class Size:
    """All recordings for a number of rows and of ranges, and the tensors that they share."""

    def __init__(self, rows: DeviceRows):
        self.recordings: dict[Name, Recording | None] = {}  # None: has run once
        self._rows = DeviceRows(rows.host, *(x.clone() for x in rows.tensors))
        self._placed: DeviceRows | None = None  # the rows whose values these are
        self._outputs: dict[Hashable, Tensor] = {}

    def place(self, rows: DeviceRows) -> DeviceRows:
        """The rows in the tensors that recordings read."""
        if self._placed is not rows:
            for own, x in zip(self._rows.tensors, rows.tensors, strict=True):
                own.copy_(x)
            self._placed = rows
        return self._rows

    def inputs(self, values: tuple[Any, ...]) -> tuple[Any, ...]:
        """Tensors that recordings write to are read where they are; other values are taken to tensors of its own."""
        outputs = {id(x) for x in self._outputs.values()}
        return tuple(x if id(x) in outputs or not isinstance(x, Tensor) else x.clone() for x in values)

    def outputs(self, kind: str, values: tuple[Any, ...]) -> tuple[Any, ...]:
        """The tensors that work of this kind writes to, with these values, and what is none as it is."""
        outputs = []
        for i, x in enumerate(values):
            if isinstance(x, Tensor):
                x = self._outputs.setdefault((kind, i, x.shape, x.dtype), torch.empty_like(x)).copy_(x)
            outputs.append(x)
        return tuple(outputs)


class Graphs:
    """Recordings of one device, by the size of their work and its name."""

    def __init__(self, recorder: Recorder):
        self._recorder = recorder
        self._sizes: dict[tuple[int, int], Size] = {}  # the one used last comes last

    def run(self, name: Name, work: Work, rows: DeviceRows, num_ranges: int, *values: Any) -> tuple[Any, ...]:
        """`work(rows, *values)`: tensors, and objects that are the same each time; see `Backend.replay`."""
        if len(rows) > MOST_REPLAYED:
            return work(rows, *values)
        size = self._size(rows, num_ranges)
        if name not in size.recordings:
            size.recordings[name] = None
            return work(rows, *values)
        recording = size.recordings[name]
        if recording is None:
            size.recordings[name] = recording = self._recorded(size, name[0], work, rows, values)
            return recording.outputs
        size.place(rows)
        for own, x in zip(recording.inputs, values, strict=True):
            if own is not x and isinstance(own, Tensor):
                own.copy_(x)
        recording.replay()
        return recording.outputs

    def _size(self, rows: DeviceRows, num_ranges: int) -> Size:
        key = len(rows), num_ranges
        size = self._sizes.pop(key, None) or Size(rows)
        if len(self._sizes) == MOST_SIZES:
            del self._sizes[next(iter(self._sizes))]
        self._sizes[key] = size
        return size

    def _recorded(self, size: Size, kind: str, work: Work, rows: DeviceRows, values: tuple[Any, ...]) -> Recording:
        """Runs the work and records it; the outputs are those of this run."""
        own_rows, inputs = size.place(rows), size.inputs(values)
        outputs = size.outputs(kind, work(own_rows, *inputs))

        def run() -> None:
            for own, x in zip(outputs, work(own_rows, *inputs), strict=True):
                if isinstance(own, Tensor):
                    own.copy_(x)

        return Recording(inputs, outputs, self._recorder.record(run))
