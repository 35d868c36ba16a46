"""Compares what `moe-offload plan` foretells of a file with what it then does: decoding and prompts, without drafts.

Before and after each round the machine is profiled for a few seconds, in the formats that the file keeps on the host;
what is foretold of the round is the mean of both, in seconds. So memory that is faster or slower from minute to minute
disturbs both, and many short rounds tell more than few long ones. Decoding is measured as profiles are, by the median
of a round's steps: what disturbs a single one counts on neither side. The model is loaded once for each device, and
once for all emulated cards, without its MTP block, with all experts on the host. On an emulated card both speeds are in
that card's time: what its kernels and transfers would take by the card's figures, and what the host's experts really
took.

    python -m tools.check_plan FILE... [--devices cpu,cuda,emulated:rtx-3060-pcie4] [--hardware PROFILE] [--limit 0.15]

Exit status 1 if a median of decoding differs by more than the limit. The last line is one JSON document.
"""

import argparse
import gc
import json
import statistics
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import experts
import offload
from experts import FORMATS, Format
from experts.formats import EXPANDED
from offload.backends.emulated import EmulatedBackend
from offload.benchmark.corpus import Text, filler
from offload.benchmark.prompts import prompt_seconds
from offload.benchmark.race import Race
from offload.hardware import write_hardware
from offload.hardware.cards import CARDS, DEFAULT_CARD
from offload.hardware.speeds import MANY_ROWS
from offload.loading.layout_choice import LAYOUTS
from offload.placement import HOST
from offload.planning import Workload
from offload.planning.options import DeviceOptions
from offload.planning.plan import make_plan
from offload.planning.target import target_of
from offload.profiling.profile import Profile, Scope
from offload.transformer.weights import host_weights

DEVICES = ("cpu", "emulated:rtx-3060-pcie4", "emulated:rtx-5090-pcie5")
TOKENS = 24  # of a round
EMULATED_TOKENS, EMULATED_DEPTH = 4, 8  # what stands for a card computes slowly, whatever its clock says
PROFILE_S = 2.5


@dataclass(frozen=True)
class Speeds:
    """Tokens a second."""

    decode: float
    prompt: float


@dataclass(frozen=True)
class Pair:
    foretold: Speeds
    measured: Speeds


class Case:
    """One file, loaded for one device or for several emulated cards.

    Args:
        depth: cached positions in the middle of what is decoded.
        prompt: tokens of the prompts that are timed, 0 for none.
    """

    def __init__(self, path: Path, devices: Sequence[str], depth: int, prompt: int, layout: str):
        first = devices[0]
        on_host: dict[str, Any] = {} if first == HOST else {"gpu_expert_layers": 0}
        self.options = {device: DeviceOptions(device=device, mtp="off", **on_host) for device in devices}
        self.prompt, context = prompt, max(2 * depth, prompt + 1)
        self.works = [Workload(n, "f16", rows=prompt or 512) for n in (2 * depth, prompt or 2)]
        self.model = offload.load(
            path, device=first, mtp="off", context=context, cache_type="f16", chunk_size=512, layout=layout, **on_host
        )
        self.layout = self.model.layout.choice.name
        formats = _in_files({w.format for w in host_weights(self.model.trunk.weights)})
        self.profile = Profile(Scope(seconds=PROFILE_S, formats=formats, rows=(1, 2, MANY_ROWS)))
        for _ in self.profile.prepare():
            pass
        tokens = EMULATED_TOKENS if first.startswith("emulated") else TOKENS
        self.text = Text("code", filler(self.model, depth - tokens // 2))
        self.race = Race(self.model, (0,), tokens)
        self.race.run([self.text], counts=False)

    def rounds(self, count: int, known: str | None) -> dict[str, list[Pair]]:
        """By device: rounds between profiles, or foretold from a profile or preset that is known."""
        pairs: dict[str, list[Pair]] = {device: [] for device in self.options}
        before = self.foretold(known)
        for _ in range(count):
            measured = {device: self.measured(device) for device in self.options}
            after = self.foretold(known)
            for device, speeds in measured.items():
                pairs[device].append(Pair(_middle(before[device], after[device]), speeds))
            before = after
        return pairs

    def foretold(self, known: str | None) -> dict[str, Speeds]:
        with TemporaryDirectory() as folder:
            new = Path(folder) / "hardware.json"
            if known is None:
                write_hardware(self.profile.run(), new)
            return {device: self._planned(device, known or str(new)) for device in self.options}

    def _planned(self, device: str, profile: str) -> Speeds:
        options, checkpoint = self.options[device], self.model.checkpoint
        target = target_of(options, profile)
        decode, prompt = (make_plan(checkpoint, target, options, work, self.layout).prediction for work in self.works)
        return Speeds(decode.decode_tokens_per_s, prompt.prompt_tokens_per_s)

    def measured(self, device: str) -> Speeds:
        if isinstance(self.model.backend, EmulatedBackend):
            self.model.backend.clock.card = CARDS[device.partition(":")[2] or DEFAULT_CARD]
        seconds, _ = prompt_seconds(self.model, self.prompt, 1) if self.prompt else ([1.0], [])
        lane = self.race.lanes[0]
        lane.step_s.clear()
        self.race.run([self.text])
        return Speeds(1 / statistics.median(lane.step_s), self.prompt / seconds[0])


def _in_files(formats: Collection[Format]) -> list[str]:
    """The names of formats that are measured so that these are; floats are not."""
    sources = [name for name, wide in EXPANDED.items() if wide in formats]
    return sorted({fmt.name for fmt in formats if fmt.name in FORMATS} - {"F32", "F16", "BF16"} | set(sources))


def _middle(a: Speeds, b: Speeds) -> Speeds:
    """Of the mean of seconds."""

    def of(one: float, other: float) -> float:
        return 2 / (1 / one + 1 / other)

    return Speeds(of(a.decode, b.decode), of(a.prompt, b.prompt))


def checked(
    path: Path, devices: Sequence[str], rounds: int, depth: int, prompt: int, layout: str, known: str | None
) -> Iterator[dict[str, Any]]:
    """Rows of the table: medians over the rounds, of the ratios too."""
    case = Case(path, devices, depth, prompt, layout)
    for device, pairs in case.rounds(rounds, known).items():
        yield {
            "file": path.name,
            "device": device,
            "layout": case.layout,
            "depth": depth,
            **_medians([(pair.foretold.decode, pair.measured.decode) for pair in pairs]),
            "prompt_tokens": prompt,
            "prompt": _medians([(pair.foretold.prompt, pair.measured.prompt) for pair in pairs]) if prompt else None,
        }


def _medians(pairs: list[tuple[float, float]]) -> dict[str, Any]:
    """Of what was foretold, what was measured, and the ratios."""
    foretold, measured = zip(*pairs, strict=True)
    ratios = [a / b for a, b in pairs]
    return {
        "foretold": statistics.median(foretold),
        "measured": statistics.median(measured),
        "ratio": statistics.median(ratios),
        "ratios": ratios,
    }


def line(row: dict[str, Any]) -> str:
    parts = {"decoding": row} | ({f"prompt of {row['prompt_tokens']}": row["prompt"]} if row["prompt"] else {})
    return f"{row['file']}  {row['device']}, {row['layout']}: " + "; ".join(
        f"{name} foretold {part['foretold']:.1f} tokens/s, measured {part['measured']:.1f}, ratio {part['ratio']:.2f}"
        for name, part in parts.items()
    )


def _loaded_as(device: str) -> str:
    return "emulated" if device.startswith("emulated") else device


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--devices", default=",".join(DEVICES), help="separated by commas (default: %(default)s)")
    parser.add_argument("--hardware", metavar="PROFILE", help="foretell from this; a new one each round")
    parser.add_argument("--layout", choices=LAYOUTS, default="auto")
    parser.add_argument("--depth", type=int, default=64, help="cached positions (default: %(default)s)")
    parser.add_argument("--prompt", type=int, default=512, help="tokens, on real devices; 0: none (default: 512)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--limit", type=float, default=0.15)
    options = parser.parse_args(arguments)
    rows = []
    for path in options.files:
        for kind, devices in groupby(options.devices.split(","), _loaded_as):
            depth, prompt = options.depth, options.prompt
            if kind == "emulated":
                depth, prompt = min(depth, EMULATED_DEPTH), 0
            for row in checked(path, list(devices), options.rounds, depth, prompt, options.layout, options.hardware):
                rows.append(row)
                print(line(row), flush=True)
            gc.collect()  # one model at a time
    print(json.dumps({"threads": experts.num_threads(), "limit": options.limit, "rows": rows}))
    return int(any(abs(row["ratio"] - 1) > options.limit for row in rows))


if __name__ == "__main__":
    sys.exit(main())
