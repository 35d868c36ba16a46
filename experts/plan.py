"""Contexts for the tasks of one call: which buffers, which kernels, in which order."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from experts import kernels, tasks, threads
from experts.activations import ENCODINGS
from experts.frame import MAX_ROWS
from experts.grouping import Grouping
from experts.matrix import Matrix, Stack
from experts.workspace import Workspace

_LINE_BYTES = 64
_CHUNK_ROWS = 128  # weight rows of one item: long enough to stream, short enough that threads end together
_MIN_CHUNK_ROWS = 16
_ITEMS_PER_THREAD = 8

Phase = tuple[int, int, int]


def padded_bytes(columns: int) -> int:
    """Bytes of a float32 row in scratch memory, whole cache lines."""
    return -(-4 * columns // _LINE_BYTES) * _LINE_BYTES


class Plan:
    """Phases of one call; the scratch memory is its own until it has run."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.phases: list[Phase] = []
        self.work_bytes = 0
        workspace.forget_tables()

    def run(self) -> None:
        """Runs all phases in order."""
        threads.run(self.phases, self.work_bytes)

    def encoding_context(self, encoding: str, source: tuple[int, int], columns: int, name: str, rows: int) -> int:
        """A context that encodes rows from (address, row bytes) into the scratch buffer `name`."""
        row_bytes = ENCODINGS[encoding].row_bytes(columns)
        target = self.workspace.address(name, rows * row_bytes)
        return self.workspace.table((kernels.encoder(encoding), *source, target, row_bytes, columns, 0))

    def encoded_addresses(self, encoding: str, columns: int, name: str, rows: NDArray[np.int64]) -> int:
        """A table with the address of each listed row in the scratch buffer `name`."""
        row_bytes = ENCODINGS[encoding].row_bytes(columns)
        return self.workspace.table(self.workspace.address(name, 0) + rows * row_bytes)

    def job(
        self, weights: Matrix | Stack, grouping: Grouping, activations: int, out: tuple[int, int], bias: int = 0
    ) -> list[int]:
        """The fields of one product; `out` is (address, row bytes), rows in the sorted order of the grouping."""
        groups = len(grouping.groups)
        self.work_bytes += len(grouping.order) * weights.rows * weights.row_bytes
        fair = groups * weights.rows // (_ITEMS_PER_THREAD * threads.num_threads())
        chunk_rows = min(_CHUNK_ROWS, max(_MIN_CHUNK_ROWS, fair // _MIN_CHUNK_ROWS * _MIN_CHUNK_ROWS))
        return [
            kernels.multiply_table(weights.format, weights.interleaved, min(grouping.largest, MAX_ROWS)),
            weights.address_table, weights.row_bytes, weights.rows, weights.columns,
            self.workspace.table(grouping.groups.reshape(-1)), groups, chunk_rows, activations, *out, bias,
            kernels.strips_table(weights.format, weights.interleaved) if grouping.largest > MAX_ROWS else 0,
        ]  # fmt: skip

    def add_products(self, jobs: Sequence[list[int]]) -> None:
        """One phase for all these products."""
        items = 0
        for job in jobs:
            items += job[tasks.JOB_NUM_GROUPS] * -(-job[tasks.JOB_ROWS] // job[tasks.JOB_CHUNK_ROWS])
        context = self.workspace.table([len(jobs), *(value for job in jobs for value in job)])
        self.add(tasks.products_task(), context, items, 0)

    def add(self, task: int, context: int, items: int, work_bytes: int) -> None:
        """One phase; `work_bytes` is about what it goes through."""
        self.phases.append((task, context, items))
        self.work_bytes += work_bytes
