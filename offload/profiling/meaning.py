"""What a profile means: predicted speeds of published models on the machine, what bounds them, what would help most."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby

from rich.table import Table

from ..hardware import Hardware
from ..planning import Workload
from ..planning.options import DeviceOptions
from ..planning.plan import Plan, make_plan
from ..planning.shapes import published
from ..planning.target import Target, target_of

MODELS = ("glm-4.5-air", "glm-4.7")
QUANTS = ("q8_0", "q6_k", "q4_k_m", "q3_k_m")  # from the largest
CARD = "rtx-3090-pcie4"  # for machines that have none
CHANNELS = "2 x channels"
WORK = Workload(context=8192, cache_type="f16", rows=512)
MEMORY_BOUND = 0.6  # share of the RAM's bandwidth from which a format is bound by it
WORTH = 1.03  # speed over that before, from which a change is named
BOUNDS = {"dram": "RAM", "gpu": "accelerator", "link": "hand-offs", "compute": "arithmetic"}


@dataclass(frozen=True)
class Meaning:
    """One model in one quantization."""

    model: str
    quant: str
    missing_bytes: int  # of memory, 0 where it fits
    tokens_per_s: float
    with_drafts: float | None
    native_tokens_per_s: float  # with rows as the file has them
    bound: str
    change: str  # that would help most: CHANNELS of memory, smaller weights, CARD; empty where none helps
    gain: float  # speed after it, over that before


def meanings(profile: str) -> list[Meaning]:
    """For all models and quantizations on the machine of a profile, by its path or preset."""
    target = target_of(DeviceOptions(device="auto"), profile)
    return [_meaning(profile, target, model, quant) for model in MODELS for quant in QUANTS]


def _meaning(profile: str, target: Target, model: str, quant: str) -> Meaning:
    plan = _plan(target, model, quant)
    before = plan.prediction.decode_tokens_per_s
    native = _plan(target, model, quant, "native").prediction.decode_tokens_per_s
    found = [(name, after / before) for name, after in _changes(profile, target, model, quant)]
    change, gain = max(found, key=lambda case: case[1])
    if gain < WORTH:
        change, gain = "", 1.0
    missing = sum(device.missing_bytes for device in plan.devices)
    drafts, bound = plan.prediction.decode_tokens_per_s_with_drafts, plan.prediction.bound
    return Meaning(model, quant, missing, before, drafts, native, bound, change, gain)


def _changes(profile: str, target: Target, model: str, quant: str) -> Iterator[tuple[str, float]]:
    """Changes, one at a time, and tokens a second after each."""
    smaller = QUANTS[QUANTS.index(quant) + 1 :][:1]
    wider = replace(target, hardware=with_channels(target.hardware, 2))
    yield CHANNELS, _plan(wider, model, quant).prediction.decode_tokens_per_s
    if smaller:
        yield smaller[0], _plan(target, model, smaller[0]).prediction.decode_tokens_per_s
    if target.memory is None:
        carded = target_of(DeviceOptions(device=f"emulated:{CARD}"), profile)
        yield CARD, _plan(carded, model, quant).prediction.decode_tokens_per_s


def _plan(target: Target, model: str, quant: str, layout: str = "auto") -> Plan:
    return make_plan(published(model, quant), target, DeviceOptions(device=target.device), WORK, layout)


def with_channels(hardware: Hardware, times: float) -> Hardware:
    """The same machine with so many times its memory channels: faster where memory is what bounds."""
    best, ram = hardware.ram.best_bytes_per_s, hardware.ram

    def scaled(tables: dict[str, dict[int, float]]) -> dict[str, dict[int, float]]:
        return {
            name: {n: rate * (times if rate >= MEMORY_BOUND * best else 1) for n, rate in rates.items()}
            for name, rates in tables.items()
        }

    return replace(
        hardware,
        ram=replace(ram, read_bytes_per_s={n: times * rate for n, rate in ram.read_bytes_per_s.items()}),
        kernels=scaled({name: dict(rates) for name, rates in hardware.kernels.items()}),
        kernels_native=scaled({name: dict(rates) for name, rates in hardware.kernels_native.items()}),
    )


def table(found: list[Meaning]) -> Table:
    """As wide as a small terminal."""
    shown = Table(title="What this means: predicted tokens/s", title_justify="left", title_style="bold", box=None)
    for column in ("", "memory", "plain", "drafts", "native", "bound by", "would help most"):
        shown.add_column(column, justify="right" if column in ("plain", "drafts", "native") else "left", no_wrap=True)
    for model, of_model in groupby(found, lambda one: one.model):
        shown.add_row(f"[bold]{model}")
        for one in of_model:
            shown.add_row(
                f" {one.quant}",
                "fits" if not one.missing_bytes else f"-{one.missing_bytes / 1e9:.0f} GB",
                f"{one.tokens_per_s:.1f}",
                f"{one.with_drafts:.1f}" if one.with_drafts else "",
                f"{one.native_tokens_per_s:.1f}",
                BOUNDS[one.bound],
                f"{one.change}: {one.gain:.2f} x" if one.change else "",
            )
    shown.caption = "by the planner's formulas, nothing was run; native: rows as the file has them"
    return shown
