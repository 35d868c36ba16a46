"""The smallest change that makes a plan fit which does not."""

from collections.abc import Iterator
from dataclasses import replace

from ..backends.memory import Workload
from ..checkpoints.checkpoint import Checkpoint
from ..placement import HOST
from .options import DeviceOptions
from .plan import Plan, make_plan
from .target import Target

CONTEXT_STEP = 1024  # tokens that a proposed context is a multiple of
LEAST_CONTEXT = 2048  # below which nobody is helped
NARROW_CHUNK = 128  # rows of a prompt at a time, where memory is short
NARROW_CACHE = "q8_0"
GIB = 1 << 30

Step = tuple[tuple[str, ...], Workload, DeviceOptions]


def smallest_changes(
    checkpoint: Checkpoint, target: Target, options: DeviceOptions, work: Workload, plan: Plan
) -> list[str]:
    """Flags that make the plan fit together; empty if it does already, or if no flag can.

    In the order of what they cost: nothing but time, some precision, context, drafts; then memory that is missing.
    """
    if plan.fits:
        return []
    layout = plan.asked_layout
    accelerator = plan.devices[0] if plan.devices[0].name != HOST else None
    if accelerator and accelerator.missing_bytes:
        found = _on_accelerator(checkpoint, target, options, work, layout)
        if found is not None:
            flags, work, options = found
            return [*flags, *_ram(make_plan(checkpoint, target, options, work, layout))]
        least = accelerator.used_bytes + accelerator.reserved_bytes
        if options.gpu_expert_layers or options.n_cpu_moe is not None or options.placement_rules:
            free = replace(options, gpu_expert_layers=0, n_cpu_moe=None, placement_rules=())
            least = make_plan(checkpoint, target, free, work, layout).placed.held_bytes + accelerator.reserved_bytes
        return [f"--gpu-memory {_gib(least)}", *_ram(plan)]
    return _ram(plan)


def _on_accelerator(
    checkpoint: Checkpoint, target: Target, options: DeviceOptions, work: Workload, layout: str
) -> Step | None:
    """The first combination of changes that fits there."""
    steps = list(_steps(options, work))
    for flags, less, fewer in steps:
        plan = make_plan(checkpoint, target, fewer, less, layout)
        if not plan.devices[0].missing_bytes:
            return flags, less, fewer
        least = LEAST_CONTEXT if flags == steps[-1][0] else max(LEAST_CONTEXT, less.context // 2)
        if context := _context_that_fits(plan, less, least):
            shorter = replace(less, context=context)
            if not make_plan(checkpoint, target, fewer, shorter, layout).devices[0].missing_bytes:
                return (*flags, f"--context {context}"), shorter, fewer
    return None


def _steps(options: DeviceOptions, work: Workload) -> Iterator[Step]:
    """Ever harder cuts; a shorter context is tried on each of them."""
    flags: tuple[str, ...] = ()
    if options.gpu_expert_layers or options.n_cpu_moe is not None:
        options = replace(options, gpu_expert_layers=0, n_cpu_moe=None)
        flags = ("--gpu-expert-layers 0",)
    yield flags, work, options
    if work.rows > NARROW_CHUNK:
        flags, work = (*flags, f"--chunk-size {NARROW_CHUNK}"), replace(work, rows=NARROW_CHUNK)
        yield flags, work, options
    if work.cache_type != NARROW_CACHE:
        flags, work = (*flags, f"--cache-type {NARROW_CACHE}"), replace(work, cache_type=NARROW_CACHE)
        yield flags, work, options
    if options.mtp != "off":
        yield (*flags, "--mtp off"), work, replace(options, mtp="off", mtp_device=None)


def _context_that_fits(plan: Plan, work: Workload, least: int) -> int | None:
    """The longest context whose cache is small enough by what is missing, None if that is below the least."""
    per_token = plan.kv_bytes_per_token * work.num_slots
    context = (work.context - plan.devices[0].missing_bytes // per_token - 1) // CONTEXT_STEP * CONTEXT_STEP
    return context if context >= least else None


def _ram(plan: Plan) -> list[str]:
    host = plan.devices[-1]
    return [f"--ram {_gib(host.used_bytes)}"] if host.missing_bytes else []


def _gib(num_bytes: int) -> str:
    """A size to write, rounded up."""
    return f"{-(-num_bytes * 10 // GIB) / 10:g}GiB"
