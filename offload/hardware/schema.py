"""What is known of a machine, as hardware.json holds it: bytes a second and seconds, measured or of a preset."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from .cores import CODEBOOKS

SCHEMA = 1  # of the file; another one is not read

BySize = Mapping[int, float]  # bytes of a transfer -> bytes a second
ByRows = Mapping[int, float]  # rows of a step on the same experts -> bytes of weights a second, each read once

EXPERT_COLUMNS, LONG_COLUMNS = 5120, 12288  # weights in a row of the experts that are measured, and of long rows


@dataclass(frozen=True)
class Machine:
    """Which machine this is; `cpu` and `memory_bytes` tell it from others."""

    cpu: str  # the processor's name
    cores: int  # physical ones that the process may use
    memory_bytes: int
    isa: str = ""  # level of vector instructions that the kernels used
    nodes: int = 1  # of memory
    preset: str = ""  # the name of a preset; empty for a measured machine
    measured_at: str = ""  # UTC, as in ISO 8601


@dataclass(frozen=True)
class Busy:
    """What else the machine did while it was measured."""

    reasons: tuple[str, ...] = ()
    affected: tuple[str, ...] = ()  # the figures that were taken meanwhile, such as "ram" or "kernels.Q4_K"


@dataclass(frozen=True)
class Ram:
    read_bytes_per_s: Mapping[int, float]  # by number of threads; medians
    knee_threads: int  # the fewest that read as fast as any number does, but for 5 %
    copy_bytes_per_s: float  # bytes copied, each of them read and written
    spread: Mapping[int, float] = field(default_factory=dict)  # by threads: (p90 - p10) / median
    small_pages_bytes_per_s: float | None = None  # read on all threads without huge pages
    cache_bytes: Mapping[str, int] = field(default_factory=dict)  # "L1", "L2", "L3", all of a level together
    read_by_size: BySize = field(default_factory=dict)  # one thread, by the size of what it reads again and again
    by_node: Mapping[str, float] = field(default_factory=dict)  # "0 <- 1": processors of node 0 read memory of node 1

    @property
    def best_bytes_per_s(self) -> float:
        return max(self.read_bytes_per_s.values())

    def bytes_per_s(self, threads: int) -> float:
        """Read bandwidth with so many threads: between measured counts on a line, beyond them as at the last one."""
        counts = sorted(self.read_bytes_per_s)
        if threads <= counts[0]:
            return self.read_bytes_per_s[counts[0]] * min(1.0, threads / counts[0])
        for low, high in pairwise(counts):
            if threads <= high:
                share = (threads - low) / (high - low)
                return (1 - share) * self.read_bytes_per_s[low] + share * self.read_bytes_per_s[high]
        return self.read_bytes_per_s[counts[-1]]


@dataclass(frozen=True)
class Direction:
    """One way over a link."""

    bytes_per_s: float  # large transfers from or to pinned memory
    latency_s: float  # of the smallest transfer, until the host knows that it is done
    pinned: BySize = field(default_factory=dict)
    pageable: BySize = field(default_factory=dict)


@dataclass(frozen=True)
class Link:
    """Between the host and one accelerator."""

    down: Direction  # to the host
    up: Direction


@dataclass(frozen=True)
class Accelerator:
    name: str
    memory_bytes: int
    memory_bytes_per_s: float  # read
    flops: float | None = None  # half-precision products, a second
    launch_s: float | None = None  # of one kernel


@dataclass(frozen=True)
class Disk:
    path: str  # the folder whose disk was read
    read_bytes_per_s: float
    cached: bool  # the system's cache could not be dropped: at least a part came out of it


@dataclass(frozen=True)
class Latency:
    """Seconds of what moves no bytes worth counting."""

    region: float  # a call of the kernels by awake threads
    wake: float  # the same when they sleep
    hand_off: Mapping[str, float] = field(default_factory=dict)  # a layer's round trip to each accelerator, one row
    layer: float | None = None  # a decoder layer on the processor, beside its weights
    step: float | None = None  # of decoding, beside its layers: the head's call, drawing the token, bookkeeping
    experts: float | None = None  # of a layer's experts for an accelerator's rows, beside their weights


@dataclass(frozen=True)
class Hardware:
    """One machine. Accelerators, links and hand-offs have the same names: torch's, or a card's in a preset."""

    schema: int
    version: str  # of the program that measured
    machine: Machine
    busy: Busy
    ram: Ram
    links: Mapping[str, Link]
    accelerators: Mapping[str, Accelerator]
    disk: Disk | None
    kernels: Mapping[str, ByRows]  # experts by format, in the faster layout of as many bytes; expanded ones by theirs
    latency_s: Latency
    kernels_native: Mapping[str, ByRows] = field(default_factory=dict)  # rows as files have them
    long_rows: Mapping[str, float] = field(default_factory=dict)  # speed with long rows of weights, of that with others
    long_rows_native: Mapping[str, float] = field(default_factory=dict)
    attention_flops: float | None = None  # a second, by the processor: a row's attention over keys and values in f16

    def expert_bytes_per_s(self, name: str, rows: int = 1, native: bool = False) -> float:
        """Bytes of experts of a format that a step of `rows` rows goes through in a second, each expert read once.

        Formats that were not measured are taken to reach the same share of the RAM's bandwidth as those that were do
        in the middle, codebooks no more than their arithmetic lets them; numbers of rows between measured ones lie on
        a line of seconds.
        """
        tables = self.kernels_native if native and self.kernels_native else self.kernels
        table = tables.get(name) or self.kernels.get(name)
        if table is None:
            most = self.machine.cores * CODEBOOKS.get(name, math.inf)
            return min(most, self.ram.best_bytes_per_s * _middle_share(self, tables, rows))
        return _at(table, rows)

    def columns_share(self, name: str, columns: int, native: bool = False) -> float:
        """Speed of a step of one row with a matrix whose rows have so many weights, over that of experts.

        It falls along a line of seconds up to the long rows that were measured; formats that were not lose nothing.
        """
        long = (self.long_rows_native if native else self.long_rows).get(name, 1.0)
        return _at({EXPERT_COLUMNS: 1.0, LONG_COLUMNS: long}, min(columns, LONG_COLUMNS))


def _middle_share(hardware: Hardware, tables: Mapping[str, ByRows], rows: int) -> float:
    """Of the RAM's bandwidth; 1 where no format was measured."""
    shares = sorted(_at(table, rows) / hardware.ram.best_bytes_per_s for table in tables.values())
    return shares[len(shares) // 2] if shares else 1.0


def _at(table: ByRows, rows: int) -> float:
    counts = sorted(table)
    if rows <= counts[0] or len(counts) == 1:
        return table[counts[0]]
    high = next((count for count in counts if count >= rows), counts[-1])
    low = counts[counts.index(high) - 1]
    seconds = [1 / table[low], 1 / table[high]]  # of a byte; beyond the last count they go on along the same line
    return 1 / (seconds[0] + (seconds[1] - seconds[0]) * (rows - low) / (high - low))
