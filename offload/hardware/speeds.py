"""A profile in the scheduler's terms: devices with a bandwidth, shares that formats reach, the cost of one more row."""

from statistics import median

from scheduler import Device

from .schema import ByRows, Hardware

ACCELERATOR_ROW_SHARE = 0.03  # of the time to read weights, for one more row on them: small until hundreds of rows


def host_device(hardware: Hardware, threads: int | None = None, native: bool = False) -> Device:
    """The processor with its memory, by all threads or by so many.

    Args:
        native: rows as files have them, not interleaved.
    """
    ram = hardware.ram
    rate = ram.best_bytes_per_s if threads is None else ram.bytes_per_s(threads)
    tables = hardware.kernels_native if native and hardware.kernels_native else hardware.kernels
    shares = {name: hardware.expert_bytes_per_s(name, 1, native) / ram.best_bytes_per_s for name in tables}
    row_shares = [share for table in tables.values() for share in _row_shares(table)]
    format_share = shares | ({"": median(shares.values())} if shares else {})  # "": weights of unnamed formats
    return Device(rate, max(0.0, median(row_shares)) if row_shares else Device(rate).row_share, format_share)


def accelerator_device(hardware: Hardware, name: str) -> Device:
    """An accelerator with its memory."""
    return Device(hardware.accelerators[name].memory_bytes_per_s, ACCELERATOR_ROW_SHARE)


def _row_shares(table: ByRows) -> list[float]:
    """Time of each further row, over that of the first one."""
    first = min(table)
    return [(table[first] / rate - 1) / (rows - first) for rows, rate in table.items() if rows > first]
