"""Show what would stand where, whether it fits, and how fast it should be: only headers are read."""

import argparse
import json
from collections import Counter

from rich.markup import escape
from rich.table import Table

from ..checkpoints.open import open_checkpoint
from ..errors import OptionError
from ..loading.context import context_of
from ..loading.source import SourceOptions, open_source
from ..planning import Workload
from ..planning.changes import smallest_changes
from ..planning.document import as_json
from ..planning.options import DeviceOptions
from ..planning.plan import Plan, beside, make_plan
from ..planning.quants import QUANTS
from ..planning.shapes import SHAPES, published
from ..planning.target import target_of
from ..transformer.config import config_of
from .devices import add_device_options, device_options
from .options import MODEL, add_cache_options
from .terminal import errors, output

UNITS = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))
BOUNDS = {
    "dram": "the memory of the host",
    "gpu": "the memory of the accelerator",
    "link": "hand-offs between the two",
    "compute": "the arithmetic of the processor",
}


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", nargs="?", help=f"{MODEL}; only headers are read")
    command.add_argument("--shape", metavar="NAME", help=f"a published model instead: {', '.join(SHAPES)}")
    command.add_argument("--quant", metavar="NAME", default="q4_k_m", help=f"of that model: {', '.join(QUANTS)}")
    command.add_argument(
        "--hardware", metavar="PRESET|FILE", help="profile of a machine, such as ddr5-6000+rtx-3090-pcie4"
    )
    command.add_argument("--slots", type=int, default=1, help="sequences, each with a cache of its own")
    command.add_argument("--json", action="store_true", help="print one JSON document")
    add_cache_options(command)
    add_device_options(command)
    command.set_defaults(device="auto")


def run(options: argparse.Namespace) -> None:
    if (options.model is None) == (options.shape is None):
        raise OptionError("plan takes a MODEL file or --shape, one of the two")
    if options.shape is None:
        source = SourceOptions(options.quantize, options.mtp_quantize, options.mtp_model)
        checkpoint = open_source(options.model, source, with_data=False)
    else:
        checkpoint = published(options.shape, options.quant)
    devices = DeviceOptions(**device_options(options))
    context = context_of(options.context, config_of(checkpoint))
    work = Workload(context, options.cache_type, options.chunk_size, options.slots)
    target = target_of(devices, options.hardware)
    if devices.draft_model is not None:
        target = beside(target, open_checkpoint(devices.draft_model, with_data=False), work)
    plan = make_plan(checkpoint, target, devices, work, options.layout)
    changes = smallest_changes(checkpoint, target, devices, work, plan)
    if options.json:
        print(json.dumps(as_json(plan, changes)))
        return
    for note in target.notes:
        errors.print(note, style="dim", markup=False, soft_wrap=True)
    for table in (_roles(plan), _memory(plan), _reading(plan), _speed(plan)):
        output.print(table)
    output.print(_verdict(plan, changes), soft_wrap=True)


def _roles(plan: Plan) -> Table:
    table = Table("role", "device", "size", "formats", title=escape(f"plan of {plan.name}, context {plan.context}"))
    by_place: dict[tuple[str, str], Counter[str]] = {}
    for (role, device, fmt), num_bytes in plan.account.held.items():
        by_place.setdefault((role, device), Counter())[fmt] += num_bytes
    for (role, device), formats in sorted(by_place.items(), key=lambda item: -item[1].total()):
        table.add_row(
            role, device, _size(formats.total()), ", ".join(f"{f} {_size(n)}" for f, n in formats.most_common())
        )
    table.add_row(
        "cache", plan.placed.placement.device, _size(plan.context * plan.kv_bytes_per_token), _per_token(plan)
    )
    return table


def _per_token(plan: Plan) -> str:
    return f"{plan.kv_bytes_per_token / 1024:.0f} KiB a token, without the MTP block's"


def _memory(plan: Plan) -> Table:
    table = Table("device", "kind", "weights and caches", "kept free", "budget", "", title="memory")
    for device in plan.devices:
        verdict = "[green]fits" if not device.missing_bytes else f"[red]{_size(device.missing_bytes)} are missing"
        table.add_row(
            device.name,
            device.kind,
            _size(device.used_bytes),
            _size(device.reserved_bytes),
            _size(device.budget_bytes),
            verdict,
        )
    here, layers = plan.expert_layers
    where = f"experts of {here} of {layers} layers on the accelerator; " if len(plan.devices) > 1 else ""
    table.caption = f"{where}layout on the host: {plan.layout.reason}"
    return table


def _reading(plan: Plan) -> Table:
    table = Table("device", "bytes", "of that", title=f"read for each token at {plan.depth} cached positions")
    for device, roles in plan.account.by_device().items():
        parts = sorted(roles.items(), key=lambda item: -item[1])
        table.add_row(
            device,
            _size(sum(roles.values())),
            ", ".join(f"{role} {_size(n)}" for role, n in parts if n * 1000 > sum(roles.values())),
        )
    return table


def _speed(plan: Plan) -> Table:
    found = plan.prediction
    table = Table("", "tokens/s", "", title="predicted, not measured")
    shares = ", ".join(f"{BOUNDS[part]} {share:.0%}" for part, share in found.shares.items() if share > 0.005)
    table.add_row("decode", f"{found.decode_tokens_per_s:.1f}", f"bound by {BOUNDS[found.bound]} ({shares})")
    if found.decode_tokens_per_s_with_drafts is not None:
        how = f"{found.drafts} a step, if they are as good as on other machines" if found.drafts else "none pays"
        table.add_row("decode with drafts", f"{found.decode_tokens_per_s_with_drafts:.1f}", how)
    table.add_row("prompt", f"{found.prompt_tokens_per_s:.0f}", "")
    return table


def _verdict(plan: Plan, changes: list[str]) -> str:
    if plan.fits:
        return "[green]fits[/]"
    missing = ", ".join(f"{d.name} lacks {_size(d.missing_bytes)}" for d in plan.devices if d.missing_bytes)
    return f"[red]does not fit[/]: {missing}. It would with {' '.join(changes)}"


def _size(num_bytes: float) -> str:
    """With a unit and two decimals."""
    unit, scale = next((pair for pair in UNITS if num_bytes >= pair[1]), UNITS[-1])
    return f"{num_bytes / scale:.2f} {unit}"
