"""Counts for Prometheus: of requests as they end, and of the serving loop as it stands when it is asked."""

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ..serving import ServingLoop, Totals

PREFIX = "moe_offload_"
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250)
ROLES = ("mtp",)  # shown with 0 where nothing of them crossed
DIRECTIONS = ("down", "up")


class Metrics:
    """All counts of one server."""

    def __init__(self, loop: Callable[[], ServingLoop | None]):
        self.registry = CollectorRegistry()
        self.requests = Counter(
            f"{PREFIX}requests", "Requests by path and status", ["path", "status"], registry=self.registry
        )
        self.first_token_s = Histogram(
            f"{PREFIX}time_to_first_token_seconds", "From request to first token", buckets=SECONDS,
            registry=self.registry,
        )  # fmt: skip
        self.answer_s = Histogram(
            f"{PREFIX}answer_seconds", "From request to end", buckets=SECONDS, registry=self.registry
        )
        self.registry.register(_LoopCollector(loop))

    def text(self) -> bytes:
        return generate_latest(self.registry)


class _LoopCollector(Collector):
    def __init__(self, loop: Callable[[], ServingLoop | None]):
        self._loop = loop

    def collect(self) -> Iterable[Metric]:
        loop = self._loop()
        if loop is None:
            return
        totals = loop.totals()
        yield from _gauges(totals, len(loop.slots()))
        yield from _counts(totals)
        yield from _drafts(totals)
        crossed = CounterMetricFamily(
            f"{PREFIX}crossed_bytes", "Between accelerator and CPU", labels=["role", "direction"]
        )
        roles = sorted({role for role, _ in totals.bytes_crossed} | set(ROLES))
        for role in roles:
            for direction in DIRECTIONS:
                crossed.add_metric([role, direction], totals.bytes_crossed[role, direction])
        yield crossed


def _gauges(totals: Totals, num_slots: int) -> Iterable[Metric]:
    yield GaugeMetricFamily(f"{PREFIX}slots", "Requests that can run at once", value=num_slots)
    yield GaugeMetricFamily(f"{PREFIX}running_requests", "Requests in a slot", value=totals.running)
    yield GaugeMetricFamily(f"{PREFIX}waiting_requests", "Requests that wait for a slot", value=totals.waiting)
    experts, reuse = totals.reuse.experts_per_step, totals.reuse.reuse
    yield GaugeMetricFamily(f"{PREFIX}distinct_experts", "That a layer reads in a step, on average", value=experts)
    yield GaugeMetricFamily(f"{PREFIX}expert_reuse", "Share of uses that found the expert loaded", value=reuse)


def _counts(totals: Totals) -> Iterable[Metric]:
    counts = {
        "submitted_requests": ("Answers begun or queued", totals.submitted),
        "refused_requests": ("Answers refused since the queue was full, or at the end", totals.refused),
        "prompt_tokens": ("Tokens of prompts", totals.prompt_tokens),
        "reused_prompt_tokens": ("Of them, found in a slot", totals.prompt_reused),
        "generated_tokens": ("Tokens of answers", totals.generated_tokens),
        "steps": ("Passes of the model", totals.steps),
        "step_seconds": ("Time in them", totals.step_s),
        "read_bytes": ("Weights and caches read", totals.bytes_read),
    }
    for name, (what, value) in counts.items():
        yield CounterMetricFamily(PREFIX + name, what, value=value)
    ended = CounterMetricFamily(f"{PREFIX}ended_requests", "Answers by how they ended", labels=["reason"])
    for reason, count in sorted(totals.ended.items()):
        ended.add_metric([reason], count)
    yield ended


def _drafts(totals: Totals) -> Iterable[Metric]:
    acceptance = totals.acceptance
    yield CounterMetricFamily(f"{PREFIX}drafted_tokens", "Drafts verified", value=acceptance.drafted)
    yield CounterMetricFamily(f"{PREFIX}accepted_tokens", "Drafts that were right", value=acceptance.accepted)
    shares = GaugeMetricFamily(f"{PREFIX}acceptance", "Share of drafts right up to a position", labels=["position"])
    for position, share in enumerate(acceptance.by_position, 1):
        shares.add_metric([str(position)], share)
    yield shares
