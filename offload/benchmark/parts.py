"""Seconds of a verification by what the layers do: attention, experts, dense layers, the head, and the rest.

Layers and trunk that note them stand in for a model's own while a benchmark runs; elsewhere nothing is timed. Where a
device computes on behind the host's back nothing is split.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from time import perf_counter
from typing import Any

import numpy as np

from ..api import LanguageModel
from ..backends.block_plan import BlockPlan
from ..backends.cpu_layers import CpuLayers
from ..placement import HOST
from ..transformer.backend import Array, Backend
from ..transformer.layers import Layers
from ..transformer.trunk import Trunk, Verified

ATTENTION, EXPERTS, DENSE, HEAD, REST = "attention", "experts", "dense, shared", "head", "norms, embedding"


class Parts:
    """Seconds by part, of the emulated machine where there is one. What is inside a part counts for the inner one."""

    def __init__(self, backend: Backend):
        self._backend = backend
        self._emulates = backend.name == "emulated"
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._name = ""
        self._at = 0.0

    def begin(self, name: str) -> str:
        """From now on it is this part; returns the one before, to be begun again afterwards."""
        now = self._backend.emulated_s if self._emulates else perf_counter()
        if self._name:
            self._seconds[self._name] += now - self._at
        before, self._name, self._at = self._name, name, now
        return before

    def forget(self) -> None:
        self._seconds.clear()

    def split(self, step: Mapping[str, float]) -> dict[str, float]:
        """The parts of a step with its verification split; what no part explains of it is drawing tokens.

        What the policy learns is left out: it counts for the next step, as `policy`.
        """
        others = {name: value for name, value in step.items() if name != "learning"}
        if not self._seconds:
            return others
        found = {name: self._seconds[name] for name in (ATTENTION, EXPERTS, DENSE, HEAD, REST)}
        sampling_s = max(0.0, others.pop("verify") - sum(found.values()))
        return {**found, "sampling": sampling_s, **others}


@dataclass(frozen=True)
class TimedLayers(Layers):
    parts: Parts

    def write_keys_values(self, *arguments: Any) -> None:
        before = self.parts.begin(ATTENTION)
        super().write_keys_values(*arguments)
        self.parts.begin(before)

    def attention(self, *arguments: Any) -> Array:
        before = self.parts.begin(ATTENTION)
        result = super().attention(*arguments)
        self.parts.begin(before)
        return result

    def choose(self, *arguments: Any) -> Any:
        before = self.parts.begin(EXPERTS)
        result = super().choose(*arguments)
        self.parts.begin(before)
        return result

    def wait(self, *arguments: Any) -> Any:
        before = self.parts.begin(EXPERTS)
        result = super().wait(*arguments)
        self.parts.begin(before)
        return result

    def feed_forward(self, *arguments: Any) -> Array:
        before = self.parts.begin(DENSE)
        result = super().feed_forward(*arguments)
        self.parts.begin(before)
        return result


@dataclass(frozen=True)
class TimedCpuLayers(CpuLayers):
    """Shared experts run beside the routed ones there, and count with them; routing counts with attention."""

    parts: Parts = field(kw_only=True)

    def attend(self, *arguments: Any) -> None:
        before = self.parts.begin(ATTENTION)
        super().attend(*arguments)
        self.parts.begin(before)

    def feed(self, plan: BlockPlan) -> np.ndarray:
        before = self.parts.begin(EXPERTS if plan.has_experts else DENSE)
        result = super().feed(plan)
        self.parts.begin(before)
        return result


@dataclass(frozen=True)
class TimedTrunk(Trunk):
    parts: Parts

    def forward(self, *arguments: Any) -> Verified:
        before = self.parts.begin(REST)
        result = super().forward(*arguments)
        self.parts.begin(before)
        return result

    def logits(self, hidden_TD: Array) -> np.ndarray:
        before = self.parts.begin(HEAD)
        result = super().logits(hidden_TD)
        self.parts.begin(before)
        return result


@contextmanager
def timed_parts(model: LanguageModel) -> Iterator[Parts]:
    """Notes what the model's steps take by part, as long as the context lasts."""
    trunk, parts = model.trunk, Parts(model.backend)
    if model.backend.name in (HOST, "emulated"):
        timed = TimedCpuLayers if isinstance(trunk.layers, CpuLayers) else TimedLayers
        layers = timed(**_fields(trunk.layers), parts=parts)
        model.trunk = TimedTrunk(**{**_fields(trunk), "layers": layers}, parts=parts)
    try:
        yield parts
    finally:
        model.trunk = trunk


def _fields(record: Any) -> dict[str, Any]:
    return {field.name: getattr(record, field.name) for field in fields(record)}
