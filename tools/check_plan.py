"""Compares what `moe-offload plan` foretells of a file with what it then does: decoding, one sequence, no drafts.

Each round profiles the machine for a few seconds, in the formats that the file keeps on the host, foretells from that,
and decodes: so memory that is faster or slower from minute to minute disturbs both. The model is loaded once for each
device, without its MTP block, with all experts on the host. On an emulated card both speeds are in that card's time:
what its kernels and transfers would take by the card's figures, and what the host's experts really took.

    python -m tools.check_plan FILE... [--devices cpu,cuda,emulated:rtx-3060-pcie4] [--hardware PROFILE] [--limit 0.15]

Exit status 1 if a median differs by more than the limit. The last line is one JSON document.
"""

import argparse
import gc
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import experts
import offload
from offload.backends.devices import DeviceOptions
from offload.benchmark.corpus import Text, filler
from offload.benchmark.race import Race
from offload.hardware import write_hardware
from offload.hardware.speeds import MANY_ROWS
from offload.loading.layout import LAYOUTS
from offload.placement import HOST
from offload.planning import Workload
from offload.planning.plan import make_plan
from offload.planning.target import target_of
from offload.profiling.profile import Profile, Scope
from offload.transformer.weights import host_weights

DEVICES = ("cpu", "emulated:rtx-3060-pcie4", "emulated:rtx-5090-pcie5")
TOKENS = 40  # of a round
EMULATED_TOKENS = 4  # what stands for a card computes slowly, whatever its clock says


@dataclass(frozen=True)
class Pair:
    """Tokens a second."""

    foretold: float
    measured: float


class Case:
    """One file on one device, loaded.

    Args:
        depth: cached positions in the middle of what is decoded.
    """

    def __init__(self, path: Path, device: str, depth: int, layout: str):
        on_host: dict[str, Any] = {} if device == HOST else {"gpu_expert_layers": 0}
        self.options = DeviceOptions(device=device, mtp="off", **on_host)
        self.work = Workload(context=2 * depth, cache_type="f16", rows=512)
        self.model = offload.load(
            path, device=device, mtp="off", context=2 * depth, cache_type="f16", layout=layout, **on_host
        )
        weights = host_weights(self.model.trunk.weights)
        self.native = not any(w.interleaved for w in weights)
        formats = sorted({w.format.name for w in weights if w.format.name not in ("F32", "F16", "BF16")})
        self.profile = Profile(Scope(seconds=4.0, formats=formats, rows=(1, 2, MANY_ROWS)))
        for _ in self.profile.prepare():
            pass
        tokens = EMULATED_TOKENS if device.startswith("emulated") else TOKENS
        self.text = Text("code", filler(self.model, depth - tokens // 2))
        self.race = Race(self.model, (0,), tokens)
        self.race.run([self.text], counts=False)

    def round(self, known: str | None) -> Pair:
        """Foretold from a profile or preset that is known, or from a new one; then measured."""
        with TemporaryDirectory() as folder:
            new = Path(folder) / "hardware.json"
            if known is None:
                write_hardware(self.profile.run(), new)
            target = target_of(self.options, known or str(new))
        plan = make_plan(self.model.checkpoint, target, self.options, self.work, self.native)
        self.race.run([self.text])
        return Pair(plan.prediction.decode_tokens_per_s, self.race.lanes[0].speeds[-1])


def checked(path: Path, device: str, rounds: int, depth: int, layout: str, known: str | None) -> dict[str, Any]:
    """One row of the table: medians over the rounds, of the ratio too."""
    case = Case(path, device, depth, layout)
    pairs = [case.round(known) for _ in range(rounds)]
    ratios = [pair.foretold / pair.measured for pair in pairs]
    return {
        "file": path.name,
        "device": device,
        "layout": "native" if case.native else "interleaved",
        "depth": depth,
        "foretold": statistics.median(pair.foretold for pair in pairs),
        "measured": statistics.median(pair.measured for pair in pairs),
        "ratio": statistics.median(ratios),
        "ratios": ratios,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--devices", default=",".join(DEVICES), help="separated by commas (default: %(default)s)")
    parser.add_argument("--hardware", metavar="PROFILE", help="foretell from this; a new one each round")
    parser.add_argument("--layout", choices=LAYOUTS, default="auto")
    parser.add_argument("--depth", type=int, default=64, help="cached positions (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=float, default=0.15)
    options = parser.parse_args(arguments)
    rows = []
    for path in options.files:
        for device in options.devices.split(","):
            row = checked(path, device, options.rounds, options.depth, options.layout, options.hardware)
            rows.append(row)
            print(
                f"{path.name}  {device}, {row['layout']}: foretold {row['foretold']:.1f} tokens/s, "
                f"measured {row['measured']:.1f}, ratio {row['ratio']:.2f}",
                flush=True,
            )
            gc.collect()  # one model at a time
    print(json.dumps({"threads": experts.num_threads(), "limit": options.limit, "rows": rows}))
    return int(any(abs(row["ratio"] - 1) > options.limit for row in rows))


if __name__ == "__main__":
    sys.exit(main())
