"""The whole benchmark: the ceiling first, then prompts, decoding and the peer; the result is one JSON document."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

import experts

from ..api import LanguageModel
from ..errors import OptionError
from ..hardware import Found
from ..hardware.machine import this_machine
from ..ledger import by_role
from ..profiling.busy import Watch
from ..request import GenerationRequest
from .ceiling import Ceiling, ceiling_of, measured_now, step_bytes
from .corpus import LONGEST_TEXT, TASKS, Text, corpus, filler
from .peer import run_peer
from .prompts import experts_by_rows, prompt_seconds
from .race import Lane, Race

Progress = Callable[[str, int, int], None]  # what runs now, rounds done, rounds in all


@dataclass(frozen=True)
class Settings:
    prompts: Sequence[int] = (128, 512)  # lengths in tokens
    depths: Sequence[int] = (0,)  # tokens before each text that is decoded from
    drafts: Sequence[int | str] = (0, 2, "auto")
    sequences: Sequence[int] = (1,)
    tasks: Sequence[str] = TASKS
    tokens: int = 64  # generated in each sequence
    rounds: int = 5
    peer: str | None = None

    def __post_init__(self) -> None:
        for name, least in (("prompts", 1), ("depths", 0), ("sequences", 1)):
            if not getattr(self, name) or min(getattr(self, name)) < least:
                raise OptionError(f"{name} is {list(getattr(self, name))}; each must be {least} or more, and one given")
        if self.tokens < 2 or self.rounds < 1:
            raise OptionError(f"tokens is {self.tokens}, rounds {self.rounds}; they must be at least 2 and 1")
        for draft in self.drafts:
            GenerationRequest((), draft=draft)

    @property
    def context(self) -> int:
        """Positions that a slot needs."""
        return max(*self.prompts, max(self.depths) + LONGEST_TEXT + self.tokens) + 8

    @property
    def slots(self) -> int:
        return len(self.drafts) * max(self.sequences)


def run(
    model: LanguageModel, path: Path, settings: Settings, command: str, found: Found | None, progress: Progress
) -> dict[str, Any]:
    """Measures everything that the settings name; returns the document that is printed.

    Args:
        command: the line that was typed.
        found: the profile that the ceiling is from, if there is one.
    """
    total = 1 + len(settings.prompts) + len(settings.depths) * len(settings.sequences) * (settings.rounds + 2)
    progress("memory", 0, total)
    watch = Watch()
    before = watch.read()
    memory = [measured_now()]  # again before each round: on a shared machine it changes from minute to minute
    prompts, races, by_rows = [], {}, {}
    done = 1
    for length in settings.prompts:
        progress(f"prompt of {length} tokens", done, total)
        seconds, routed = prompt_seconds(model, length, repeats=3)
        prompts.append({"tokens": length} | _spread([length / s for s in seconds]))
        by_rows = experts_by_rows(routed)
        done += 1
    for depth in settings.depths:
        texts = corpus(model, tuple(settings.tasks), depth)
        for sequences in settings.sequences:
            race = races[depth, sequences] = Race(model, settings.drafts, settings.tokens)
            for number in range(settings.rounds + 1):  # the first does not count: caches fill, `auto` learns
                progress(f"decoding, depth {depth}, {sequences} at once", done, total)
                memory.append(measured_now())
                race.run(_chosen(texts, number, sequences), counts=number > 0)
                done += 1
            progress("parts of a step", done, total)
            race.split(_chosen(texts, settings.rounds, sequences))
            done += 1
    busy = watch.reasons(before, watch.read())
    peer = None
    if settings.peer:
        progress(settings.peer, done, total)
        peer = _peer(model, path, settings)
    progress("done", total, total)
    ceiling = ceiling_of(model, found, statistics.median(memory))
    num_bytes = step_bytes(model, min(settings.depths) + LONGEST_TEXT // 2)
    lanes = races[settings.depths[0], settings.sequences[0]].lanes
    return {
        "versions": {"moe-offload": version("moe-offload"), "numpy": np.__version__},
        "command": command,
        "model": path.name,
        "machine": _machine(model, ceiling, memory) | {"busy": busy},
        "ceiling_tokens_per_s": ceiling.tokens_per_s(num_bytes),
        "prompt": prompts,
        "decode": [
            _decoded(lane, split, sequences, depth, ceiling.tokens_per_s(step_bytes(model, depth + LONGEST_TEXT // 2)))
            for (depth, sequences), race in races.items()
            for lane, split in zip(race.lanes, race.split_lanes, strict=True)
        ],
        "acceptance_by_position": {str(lane.draft): lane.acceptance.by_position for lane in lanes},
        "acceptance_by_task": {
            str(lane.draft): {task: counter.by_position for task, counter in lane.by_task.items()} for lane in lanes
        },
        "experts_by_layer": by_rows,
        "bytes": {"by_device_for_a_plain_token": num_bytes, "crossed_per_token": _crossed(lanes)},
        "peer": peer,
    }


def _chosen(texts: list[Text], number: int, count: int) -> list[Text]:
    return [texts[(number * count + i) % len(texts)] for i in range(count)]


def _machine(model: LanguageModel, ceiling: Ceiling, memory: Sequence[float]) -> dict[str, Any]:
    machine = this_machine()
    return {
        "cpu": machine.cpu,
        "cores": machine.cores,
        "memory_bytes": machine.memory_bytes,
        "isa": machine.isa,
        "threads": experts.num_threads(),
        "device": model.backend.name,
        "emulated": model.backend.name == "emulated",  # speeds are what that card would reach
        "layout": str(model.layout),
        "bytes_per_s": ceiling.bytes_per_s,
        "bytes_per_s_from": ceiling.source,
        "ram_bytes_per_s": {"median": statistics.median(memory), "least": min(memory), "most": max(memory)},
    }


def _spread(rates: list[float]) -> dict[str, float]:
    low, high = np.percentile(rates, [10, 90])
    return {"median_tokens_per_s": statistics.median(rates), "p10": float(low), "p90": float(high)}


def _decoded(lane: Lane, split: Lane, sequences: int, depth: int, ceiling_tokens_per_s: float) -> dict[str, Any]:
    rates = _spread(lane.speeds)
    found = {"draft": lane.draft, "sequences": sequences, "depth": depth, **rates}
    return found | {
        "ceiling_tokens_per_s": ceiling_tokens_per_s,
        "share_of_ceiling": rates["median_tokens_per_s"] / ceiling_tokens_per_s,
        "bytes_per_token": lane.num_bytes / lane.tokens,
        "bytes_per_s": lane.num_bytes / lane.seconds,
        "experts_per_step": lane.reuse.experts_per_step,
        "expert_reuse": lane.reuse.reuse,
        "drafted_per_step": lane.drafted / lane.reuse.steps,
        "accepted_drafts": [lane.accepted[n] for n in range(max(lane.accepted) + 1)],
        "seconds_per_step": {name: seconds / split.reuse.steps for name, seconds in split.parts_s.items()},
        "joules_per_token": lane.joules / lane.tokens if lane.joules else None,
    }


def _crossed(lanes: list[Lane]) -> dict[str, dict[str, dict[str, float]]]:
    """Bytes between accelerator and host for each token: by draft, role and direction; empty on the CPU alone."""
    return {
        str(lane.draft): {
            role: {way: count / lane.tokens for way, count in ways.items()}
            for role, ways in by_role(lane.crossed).items()
        }
        for lane in lanes
        if lane.crossed
    }


def _peer(model: LanguageModel, path: Path, settings: Settings) -> dict[str, Any]:
    """The same prompts and texts, one sequence at a time, at the first depth, with each fixed number of drafts."""
    texts = corpus(model, tuple(settings.tasks), settings.depths[0])
    chosen = [_chosen(texts, number, 1)[0].token_ids for number in range(1, settings.rounds + 1)]
    prompts = [filler(model, length) for length in settings.prompts]
    lengths = [0, *(n for n in settings.drafts if isinstance(n, int) and n and model.mtp)]
    runs = {
        n: run_peer(
            path, experts.num_threads(), settings.context, () if n else prompts, chosen, settings.tokens, draft=n
        )
        for n in lengths
    }
    plain = runs[0]
    return {
        "engine": plain["engine"],
        "version": plain["version"],
        "prompt_tokens_per_s": dict(zip(map(str, settings.prompts), plain["prompt_tokens_per_s"], strict=True)),
        "decode_tokens_per_s": statistics.median(plain["decode_tokens_per_s"]),
        "decode": [
            {"draft": n, **_spread(found["decode_tokens_per_s"])}
            | {"drafted": found["drafted"], "accepted": found["accepted"]}
            for n, found in runs.items()
        ],
    }
