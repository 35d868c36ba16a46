"""Compares draft policies on recorded or synthetic texts, for a machine and a model that need not be at hand.

Every policy replays the same text through the classes that run the real thing. Speeds are multiples of plain decoding:
fixed lengths, a confidence threshold as llama.cpp has it, `rows` (a row's cost by its place alone), `auto` with and
without truncation, and an oracle that knows the future. A line for each cell, a table of all, and last one JSON
document. The policy's own time is no part of the speeds; its share stands beside them.

    python -m tools.simulate_policy --tokens 4000                    # the grid of acceptance and overlap
    python -m tools.simulate_policy --traces DIR                     # texts recorded by tools.trace_routing
    python -m tools.simulate_policy --map                            # where drafting breaks even
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from offload.planning.shapes import SHAPES
from scheduler import AutoPolicy, DraftPolicy, Request, StepCost, StepPlan, StepReport
from scheduler.oracle import fixed_seconds, oracle_seconds, step_seconds
from scheduler.simulator import simulate
from scheduler.synthetic import Character, synthetic_trace
from scheduler.threshold import ConfidenceThreshold
from scheduler.trace import Trace
from tools.published_models import Machine, Published, cost_of, published_model, spread_over, with_cpu_share

MOST_DRAFTS = 5
FIXED = range(MOST_DRAFTS)  # lengths that `auto` is measured against
THRESHOLD = 0.75  # llama.cpp's --spec-draft-p-min


def numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def policies(cost: StepCost, num_experts: int, num_used: int) -> dict[str, DraftPolicy]:
    def auto(by_routing: bool, truncate: bool) -> AutoPolicy:
        return AutoPolicy(cost, num_experts, num_used, most=MOST_DRAFTS, by_routing=by_routing, truncate=truncate)

    return {
        "threshold": ConfidenceThreshold(MOST_DRAFTS, THRESHOLD),
        "rows": auto(by_routing=False, truncate=False),
        "auto, no cuts": auto(by_routing=True, truncate=False),
        "auto": auto(by_routing=True, truncate=True),
    }


class OwnTime:
    """A policy, and the processor time that it takes, which it is told as the engine tells it."""

    def __init__(self, policy: DraftPolicy):
        self.policy, self.seconds, self._told_s = policy, 0.0, 0.0

    def timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            started = time.thread_time()
            found = call(*arguments)
            self.seconds += time.thread_time() - started
            return found

        return run

    def begin(self, requests: Sequence[Request]) -> StepPlan:
        plan = self.timed(self.policy.begin)(requests)
        if "take" not in vars(plan):  # a policy may return the same plan again
            for name in ("take", "extend", "keep", "cut"):
                setattr(plan, name, self.timed(getattr(plan, name)))
        return plan  # type: ignore[no-any-return]

    def observe(self, plan: StepPlan, report: StepReport) -> None:
        policy_s, self._told_s = self.seconds - self._told_s, self.seconds
        self.timed(self.policy.observe)(plan, report._replace(policy_s=policy_s))


def compare(traces: list[Trace], cost: StepCost, noise: float) -> dict[str, object]:
    """All policies on these texts, one after the other; each policy learns from text to text."""
    num_used = traces[0].expert_ids_NLK.shape[2]
    tables = [step_seconds(trace, cost) for trace in traces]
    lengths = range(MOST_DRAFTS + 1)
    fixed = np.sum([fixed_seconds(t, s, lengths) for t, s in zip(traces, tables, strict=True)], axis=0)
    oracle = sum(oracle_seconds(t, s) for t, s in zip(traces, tables, strict=True))
    plain = float(fixed[0])
    found: dict[str, float] = {}
    for name, policy in policies(cost, traces[0].num_experts, num_used).items():
        own = OwnTime(policy)
        runs = [simulate([trace], own, cost, noise) for trace in traces]
        found[name] = plain / sum(run.seconds for run in runs)
    assert isinstance(policy, AutoPolicy)  # the last one is `auto`
    cut_rows, steps = sum(run.cut_rows for run in runs), sum(run.steps for run in runs)
    speeds = [plain / float(s) for s in fixed]
    best, gain = max(speeds[length] for length in FIXED), plain / oracle - 1
    return {
        "fixed": [round(s, 4) for s in speeds],
        **{name: round(s, 4) for name, s in found.items()},
        "oracle": round(plain / oracle, 4),
        "best_length": speeds.index(best),
        "of_best_fixed": round(found["auto"] / best, 4),
        "of_oracle_gain": round((found["auto"] - 1) / gain, 3) if gain > 1e-6 else None,
        "of_cuts": round(found["auto"] / found["auto, no cuts"] - 1, 5),
        "cut_rows": cut_rows,
        "cuts_account": round(policy.truncation.account, 2),
        "cuts_left_off": not policy.truncation.pays,
        "policy_us_per_step": round(own.seconds / steps * 1e6),
        "policy_share": round(own.seconds / sum(run.seconds for run in runs), 5),
    }


def grid(options: argparse.Namespace, model: Published, cost: StepCost) -> Iterator[dict[str, object]]:
    for variation in options.variation:
        for acceptance in options.acceptance:
            for overlap in options.overlap:
                character = Character(acceptance, overlap, variation, overlap_variation=options.overlap_variation)
                trace = synthetic_trace(
                    character, options.tokens, MOST_DRAFTS, model.moe_layers, model.experts, model.used, options.seed
                )
                cell = {"acceptance": acceptance, "overlap": overlap, "variation": variation}
                yield {**cell, **compare([trace], cost, options.noise)}


def recorded(options: argparse.Namespace, model: Published, cost: StepCost) -> Iterator[dict[str, object]]:
    """Files of one kind (the name before the last dash) are one long text."""
    kinds: dict[str, list[Trace]] = {}
    for directory in options.traces:
        for path in sorted(Path(directory).glob("*.npz")):
            with np.load(path) as arrays:
                trace = Trace.from_arrays(dict(arrays))
            kinds.setdefault(f"{Path(directory).name}/{path.stem.rpartition('-')[0]}", []).append(trace)
    for kind, traces in kinds.items():
        _, layers, used = traces[0].expert_ids_NLK.shape
        right = np.concatenate([trace.num_right()[:-MOST_DRAFTS] for trace in traces])
        accepted = [round(float(np.mean(right > j)), 3) for j in range(MOST_DRAFTS)]
        tokens = sum(trace.num_tokens for trace in traces)
        result = compare(traces, spread_over(cost, model.used, layers, used), options.noise)
        yield {"texts": kind, "tokens": tokens, "accepted": accepted, **result}


def print_cells(cells: list[dict[str, Any]], console: Console) -> None:
    """What `auto` reaches, cell by cell."""
    table = Table(
        "acceptance, overlap, variation",
        "of plain",
        "of best 0-4",
        "of the oracle's gain",
        "truncation gives",
        "policy's time",
    )
    for cell in cells:
        name = cell.get("texts") or "{acceptance}, {overlap}, {variation}".format(**cell)
        cuts = "left off" if cell["cuts_left_off"] else "no row cut" if not cell["cut_rows"] else "on"
        table.add_row(
            name,
            f"{cell['auto']:.3f}",
            f"{cell['of_best_fixed']:.3f} ({cell['best_length']})",
            f"{cell['of_oracle_gain']}",
            f"{cell['of_cuts']:+.2%}, {cell['cut_rows']} rows, {cuts}",
            f"{cell['policy_share']:.2%}",
        )
    console.print(table)


def break_even(model: Published, cost: StepCost) -> Iterator[dict[str, object]]:
    """The best fixed length and its speed, from expectations alone, where every draft is right with one chance."""
    for share in (0.5, 0.75, 0.9, 0.97):
        shared = with_cpu_share(cost, model.used, share)
        for acceptance in (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95):
            for overlap in (0.05, 0.2, 0.35, 0.5, 0.65):
                speeds = [expected_speed(model, shared, acceptance, overlap, m) for m in range(MOST_DRAFTS + 1)]
                best = int(np.argmax(speeds))
                yield {
                    "cpu_share": share,
                    "acceptance": acceptance,
                    "overlap": overlap,
                    "length": best,
                    "speed": round(speeds[best], 3),
                }


def expected_speed(model: Published, cost: StepCost, acceptance: float, overlap: float, length: int) -> float:
    """Tokens per second over plain decoding's; each row keeps an expert of the row before with the overlap's chance."""
    new, expected = 1.0, 1.0  # of a row's experts, those that no row before loads; tokens
    distinct = float(model.used)
    others = model.experts - model.used
    for j in range(length):
        loaded = (distinct - model.used) / others  # of the experts that the last row does not use
        new = (1 - overlap) * (1 - loaded)
        distinct += model.used * new
        expected += acceptance ** (j + 1)
    layers = np.ones(model.moe_layers)
    seconds = cost.verify_s(1 + length, distinct * layers, model.used * (1 + length) * layers)
    return expected * cost.plain_s(model.used) / (seconds + sum(cost.draft_parts(length, length)))


def print_map(cells: list[dict[str, object]], console: Console) -> None:
    for share in dict.fromkeys(cell["cpu_share"] for cell in cells):
        of_share = [cell for cell in cells if cell["cpu_share"] == share]
        overlaps = list(dict.fromkeys(cell["overlap"] for cell in of_share))
        table = Table("acceptance", *(f"overlap {o}" for o in overlaps), title=f"experts take {share:.0%} of a step")
        for acceptance in dict.fromkeys(cell["acceptance"] for cell in of_share):
            row = [cell for cell in of_share if cell["acceptance"] == acceptance]
            shown = [f"{c['speed']:.2f} ({c['length']})" if c["length"] else "·" for c in row]
            table.add_row(str(acceptance), *shown)
        console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", nargs="+", metavar="DIR", help="replay these instead of synthetic texts")
    parser.add_argument("--map", action="store_true", help="the break-even map, from expectations")
    parser.add_argument("--model", choices=sorted(SHAPES), default="glm-4.7")
    parser.add_argument("--cpu-gb-per-s", type=float, default=Machine.cpu_bytes_per_s / 1e9)
    parser.add_argument("--gpu-gb-per-s", type=float, default=Machine.gpu_bytes_per_s / 1e9)
    parser.add_argument("--bits", type=float, default=Machine.bits, help="of a weight")
    parser.add_argument("--acceptance", type=numbers, default="0.3,0.6,0.9")
    parser.add_argument("--overlap", type=numbers, default="0.05,0.35,0.6")
    parser.add_argument("--variation", type=numbers, default="0,1.5", help="of acceptance, in log-odds")
    parser.add_argument("--overlap-variation", type=float, default=0.5, help="of overlap, in log-odds")
    parser.add_argument("--noise", type=float, default=0.05, help="of the seconds that policies are told")
    parser.add_argument("--tokens", type=int, default=2000, help="of a synthetic text")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    model = published_model(options.model)
    machine = Machine(options.cpu_gb_per_s * 1e9, options.gpu_gb_per_s * 1e9, bits=options.bits)
    cost, console = cost_of(model, machine), Console(width=140)
    print(f"plain step {cost.plain_s(model.used) * 1e3:.1f} ms, pass of the drafter {cost.draft_s * 1e3:.2f} ms")
    cells: list[dict[str, Any]] = []
    if options.map:
        cells = list(break_even(model, cost))
        print_map(cells, console)
    else:
        for cell in (recorded if options.traces else grid)(options, model, cost):
            cells.append(cell)
            print(json.dumps(cell), flush=True)
        print_cells(cells, console)
    print(json.dumps({"model": options.model, "machine": vars(machine), "cells": cells}))


if __name__ == "__main__":
    main()
