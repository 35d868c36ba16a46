"""Seconds of the parts of a step, on this machine or on the one that is emulated."""

from time import perf_counter

from .transformer.backend import Backend


class StopWatch:
    """Laps of one step after the other; what the policy learns from a step counts for the next one, as `policy`."""

    def __init__(self, backend: Backend):
        self._backend = backend
        self._laps: dict[str, tuple[float, float]] = {}  # real and emulated seconds
        self._at = self._begun = (0.0, 0.0)

    def start(self) -> None:
        self._laps = {"policy": self._laps.get("learning", (0.0, 0.0))}
        self._at = self._begun = self._now()

    def lap(self, name: str) -> None:
        """What happened since the last lap was this."""
        now, (real, emulated) = self._now(), self._laps.get(name, (0.0, 0.0))
        self._laps[name] = (real + now[0] - self._at[0], emulated + now[1] - self._at[1])
        self._at = now

    def seconds(self, name: str) -> float:
        """Of the laps of this name: emulated ones if there are any."""
        real, emulated = self._laps.get(name, (0.0, 0.0))
        return emulated or real

    def laps(self) -> dict[str, float]:
        """Seconds by name: emulated ones if there are any."""
        return {name: emulated or real for name, (real, emulated) in self._laps.items()}

    @property
    def step_s(self) -> float:
        return self.emulated_s or self._at[0] - self._begun[0]

    @property
    def emulated_s(self) -> float:
        """Of the step so far; 0 on a real machine."""
        return self._at[1] - self._begun[1]

    def _now(self) -> tuple[float, float]:
        return perf_counter(), self._backend.emulated_s
