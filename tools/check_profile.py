"""Compares the profile's read bandwidth with torch's, which shares no code with it, in the same minute.

Memory of a shared machine may change its speed within seconds, so two things are asked of each run. Both readers take
turns in this process on the same memory: in the middle each reading must agree with torch's right before and after it.
And what a profile, in a process of its own, says must agree with the middle of torch's readings around it; on a busy
machine it must lie among them.

    python -m tools.check_profile [--runs 3] [--limit 0.1]

Exit status 1 if a run misses either by more than the limit. The last line is one JSON document.
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
from offload.hardware.probe import Probe
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

    def share(self) -> float:
        """Our speed over torch's: the median of our readings, each beside its neighbours."""
        samples = in_turn(self._runs, 0.0, ROUNDS, PAUSE_S)
        ours_s, torch_s = (np.array(samples[name].seconds) for name in ("ours", "torch"))
        return float(np.median((torch_s[:-1] + torch_s[1:]) / 2 / ours_s[1:]))

    def torch_alone(self) -> list[float]:
        """Bytes a second."""
        seconds = in_turn({0: self._runs["torch"]}, 0.0, ROUNDS, PAUSE_S)[0].seconds
        return [self._probe.num_bytes / s for s in seconds]


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
        around = sorted(before + readers.torch_alone())
        share, threads = readers.share(), max(hardware.ram.read_bytes_per_s)
        ours, spread = hardware.ram.read_bytes_per_s[threads], hardware.ram.spread[threads]
        outside = max(around[0] / ours - 1, ours / around[-1] - 1, 0.0)
        theirs, busy = [around[0], statistics.median(around), around[-1]], bool(hardware.busy.reasons)
        off += [abs(share - 1), outside if busy else abs(ours / theirs[1] - 1)]
        run = {"in_turn": share, "profile": ours, "spread": spread, "torch": theirs, "outside": outside, "busy": busy}
        runs.append(run)
        print(
            f"in turn {share:.2f} of torch; profile {ours / 1e9:.1f} GB/s (p10 to p90 {spread:.0%}), torch around it "
            f"{theirs[1] / 1e9:.1f} ({theirs[0] / 1e9:.1f} to {theirs[2] / 1e9:.1f})"
            + (f", outside by {outside:.0%}" if outside else "")
            + ("; BUSY" if busy else ""),
            flush=True,
        )
    print(json.dumps({"threads": experts.num_threads(), "limit": options.limit, "runs": runs}))
    return int(max(off) > options.limit)


if __name__ == "__main__":
    sys.exit(main())
