"""Compares the profile's read bandwidth with torch's, which shares no code with it, in the same minute.

Each run profiles this machine quickly in a process of its own, between two readings by torch. Beside that both readers
take turns in this process on the same memory: on a busy machine only that comparison says something.

    python -m tools.check_profile [--runs 3] [--limit 0.1]

Exit status 1 if a run, or on a busy machine the readers in turn, differ by more than the limit. The last line is one
JSON document.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

import experts
from offload.hardware import Hardware, read_hardware
from offload.profiling.probe import Probe
from offload.profiling.samples import in_turn

ROUNDS = 15
PAUSE_S = 0.3  # torch's threads spin on after their work


class Readers:
    """The same memory, read by the kernels' threads and by as many of torch's."""

    def __init__(self) -> None:
        self._probe = Probe()
        self._words = torch.from_numpy(self._probe.data.view(np.float32))
        self._runs = {"ours": self._probe.read, "torch": lambda: self._words.sum()}
        torch.set_num_threads(experts.num_threads())

    def rates(self) -> dict[str, float]:
        """Bytes a second of both, taking turns; medians."""
        samples = in_turn(self._runs, 0.0, ROUNDS, PAUSE_S)
        return {name: sample.rate(self._probe.num_bytes) for name, sample in samples.items()}

    def torch_alone(self) -> float:
        return in_turn({0: self._runs["torch"]}, 0.0, ROUNDS, PAUSE_S)[0].rate(self._probe.num_bytes)


def profiled() -> Hardware:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "hardware.json"
        flags = ["--quick", "--no-disk", "--no-accelerators", "--formats", "Q4_K", "--output", str(path)]
        subprocess.run([sys.executable, "-m", "tools.profile_bandwidth", *flags], check=True, capture_output=True)
        return read_hardware(path)


def main() -> int:
    parser = argparse.ArgumentParser(description="The profile's read bandwidth beside torch's.")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--limit", type=float, default=0.1)
    options = parser.parse_args()
    readers, runs, off = Readers(), list[dict[str, object]](), list[float]()
    for _ in range(options.runs):
        before = readers.torch_alone()
        hardware = profiled()
        theirs = statistics.mean([before, readers.torch_alone()])
        in_turn = readers.rates()
        threads, busy = max(hardware.ram.read_bytes_per_s), hardware.busy.reasons
        ours, spread = hardware.ram.read_bytes_per_s[threads], hardware.ram.spread[threads]
        apart, together = ours / theirs - 1, in_turn["ours"] / in_turn["torch"] - 1
        off.append(abs(together if busy else apart))
        runs.append({"profile": ours, "spread": spread, "torch_around": theirs, "in_turn": in_turn, "busy": busy})
        print(
            f"profile {ours / 1e9:.1f} GB/s (p10 to p90 {spread:.0%}), torch around it {theirs / 1e9:.1f}: "
            f"{apart:+.1%}; in turn {in_turn['ours'] / 1e9:.1f} and {in_turn['torch'] / 1e9:.1f}: {together:+.1%}"
            + ("; BUSY" if busy else ""),
            flush=True,
        )
    print(json.dumps({"threads": experts.num_threads(), "limit": options.limit, "runs": runs}))
    return int(max(off) > options.limit)


if __name__ == "__main__":
    sys.exit(main())
