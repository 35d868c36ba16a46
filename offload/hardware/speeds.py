"""A profile in the scheduler's terms: devices with a bandwidth, shares that formats reach, the cost of one more row."""

from dataclasses import replace
from statistics import median

from experts import FORMATS
from experts.formats import EXPANDED
from scheduler import Device

from .schema import ByRows, Hardware

KERNEL_FORMATS = FORMATS | {fmt.name: fmt for fmt in EXPANDED.values()}  # expanded ones under names of their own
ACCELERATOR_ROW_SHARE = 0.03  # of the time to read weights, for one more row on them, while rows are few
MANY_ROWS = 24  # as many of a prompt's meet in one expert: bound by arithmetic, not by memory
FEW_ROWS = 8  # as many a step of decoding has
ACCELERATOR_FLOPS = 8e12  # of products with many rows, in float32 arithmetic: measured on one H100


def host_device(hardware: Hardware, threads: int | None = None, native: bool = False) -> Device:
    """The processor with its memory, by all threads or by so many.

    Args:
        native: rows as files have them, not interleaved.
    """
    ram = hardware.ram
    rate = ram.best_bytes_per_s if threads is None else ram.bytes_per_s(threads)
    tables = hardware.kernels_native if native and hardware.kernels_native else hardware.kernels
    known = KERNEL_FORMATS if tables else ()
    shares = {name: hardware.expert_bytes_per_s(name, 1, native) / ram.best_bytes_per_s for name in known}
    row_shares = [share for table in tables.values() for share in _row_shares(table)]
    format_share = shares | ({"": median(shares[name] for name in tables)} if tables else {})  # "": of unnamed formats
    return Device(rate, max(0.0, median(row_shares)) if row_shares else Device(rate).row_share, format_share)


def for_prompts(
    device: Device, hardware: Hardware, on_host: bool, native: bool = False, name: str | None = None
) -> Device:
    """The same device where rows are many: weights stay in caches or registers, and arithmetic is what counts.

    Args:
        name: of the weights' format; one that was not measured takes as long as those that were do in the middle.
    """
    if not on_host:  # weights of about a byte
        return replace(device, row_share=2 * device.bytes_per_s / ACCELERATOR_FLOPS)
    tables = hardware.kernels_native if native and hardware.kernels_native else hardware.kernels
    shares = {key: _row_share(table, max(table)) for key, table in tables.items() if len(table) > 1}
    return replace(device, row_share=shares.get(name or "", median(shares.values()))) if shares else device


def accelerator_device(hardware: Hardware, name: str) -> Device:
    """An accelerator with its memory."""
    return Device(hardware.accelerators[name].memory_bytes_per_s, ACCELERATOR_ROW_SHARE)


def _row_shares(table: ByRows) -> list[float]:
    """Time of each further row, over that of the first one."""
    return [_row_share(table, rows) for rows in table if min(table) < rows <= FEW_ROWS]


def _row_share(table: ByRows, rows: int) -> float:
    first = min(table)
    return max(0.0, table[first] / table[rows] - 1) / (rows - first)
