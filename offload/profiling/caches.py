"""Caches: their sizes as the system tells them, and how fast one thread reads what fits into them."""

from functools import partial
from pathlib import Path

from ..hardware.probe import Probe
from .samples import in_turn

PASS_BYTES = 32 << 20  # read in one measurement, however little is read again and again


def cache_bytes(root: Path = Path("/")) -> dict[str, int]:
    """Bytes of data caches by level, "L1" and so on, all of a level together; empty where the system does not say."""
    found: dict[tuple[int, str], int] = {}
    for folder in (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cache/index[0-9]*"):
        try:
            kind, level, size, shared = (
                (folder / name).read_text().strip() for name in ("type", "level", "size", "shared_cpu_list")
            )
        except OSError:
            continue
        if kind != "Instruction":
            found[int(level), shared] = int(size.removesuffix("K")) << 10
    levels = sorted({level for level, _ in found})
    return {f"L{n}": sum(size for (level, _), size in found.items() if level == n) for n in levels}


def last_level_cache_bytes() -> int:
    """All last-level caches together, 0 where the system does not say."""
    return next(reversed(cache_bytes().values()), 0)


def read_by_size(probe: Probe, budget_s: float) -> dict[int, float]:
    """Bytes a second of one thread, by the bytes that it reads again and again, from 16 KiB to all of the probe."""
    sizes = [size for size in (1 << n for n in range(14, 63)) if size <= probe.num_bytes]
    passes = {size: max(1, PASS_BYTES // size) for size in sizes}
    samples = in_turn({n: partial(probe.reread, n, passes[n]) for n in sizes}, budget_s)
    return {size: sample.rate(size * passes[size]) for size, sample in samples.items()}
