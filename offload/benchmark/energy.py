"""Joules that processors and NVIDIA cards have taken so far, where the machine tells."""

import ctypes
from contextlib import suppress
from pathlib import Path


class EnergyMeter:
    """Counters of RAPL's packages (readable by root on most systems) and of cards through NVML."""

    def __init__(self, root: Path = Path("/")) -> None:
        zones = (root / "sys/class/powercap").glob("*-rapl:?")
        self._zones = [(zone, _number(zone / "max_energy_range_uj")) for zone in zones if _readable(zone)]
        self._last = [_number(zone / "energy_uj") for zone, _ in self._zones]
        self._wrapped = [0] * len(self._zones)
        self._cards = _cards()
        self.sources = ["RAPL"] * bool(self._zones) + ["NVML"] * bool(self._cards)

    def joules(self) -> float | None:
        """Since some beginning; None where nothing tells."""
        if not self.sources:
            return None
        total = 0.0
        for i, (zone, most) in enumerate(self._zones):
            now = _number(zone / "energy_uj")
            if now < self._last[i]:  # the counter began again
                self._wrapped[i] += most
            self._last[i] = now
            total += (now + self._wrapped[i]) / 1e6
        return total + sum(_millijoules(card) / 1e3 for card in self._cards)


def _readable(zone: Path) -> bool:
    try:
        (zone / "energy_uj").read_text()
    except OSError:
        return False
    return True


def _number(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0


def _cards() -> list[tuple[ctypes.CDLL, ctypes.c_void_p]]:
    """Cards whose driver counts energy."""
    found: list[tuple[ctypes.CDLL, ctypes.c_void_p]] = []
    with suppress(OSError, AttributeError):
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
        count = ctypes.c_uint()
        if nvml.nvmlInit_v2() or nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)):
            return []
        for i in range(count.value):
            handle, energy = ctypes.c_void_p(), ctypes.c_ulonglong()
            known = not nvml.nvmlDeviceGetHandleByIndex_v2(i, ctypes.byref(handle))
            if known and not nvml.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(energy)):
                found.append((nvml, handle))
    return found


def _millijoules(card: tuple[ctypes.CDLL, ctypes.c_void_p]) -> int:
    nvml, handle = card
    energy = ctypes.c_ulonglong()
    nvml.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(energy))
    return energy.value
