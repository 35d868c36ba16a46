"""Speed of the expert FFN on this processor, as a share of the memory bandwidth measured in the same run.

    python -m tools.bench_kernels --formats Q4_K,Q6_K --rows 1,2,4,6 --levels avx512vnni,avx2

The roofline comes first: how fast memory can be read, by the number of threads. A step is one layer of GLM-4.7's shape;
its rows choose the same experts (constant) or all different ones (disjoint), and successive steps different ones, so
that weights come from memory. Beside it the time of ggml on the same bytes, and on its own repacked copy, where the
xllamacpp package is installed. Every level of vector instructions has a process of its own. The last line is one JSON
document.
"""

import argparse
import json
import subprocess
import sys
from typing import Any

import experts
from experts import FORMATS, isa
from offload.hardware.probe import Probe
from offload.profiling import ram
from offload.profiling.caches import last_level_cache_bytes
from offload.profiling.expert_speed import LAYOUTS

from .bench_ggml import Ggml, available
from .bench_step import SETS, Bench, Shape


def arguments() -> argparse.Namespace:
    def listed(allowed: Any) -> Any:
        def parse(text: str) -> list[str]:
            names = text.split(",")
            wrong = [name for name in names if name not in allowed]
            if wrong:
                raise argparse.ArgumentTypeError(f"{', '.join(wrong)}: choose of {', '.join(allowed)}")
            return names

        return parse

    levels = [level for level in isa.LEVELS if not isa.missing(level)]
    parser = argparse.ArgumentParser(description="Speed of the expert FFN against the memory bandwidth and ggml.")
    parser.add_argument("--formats", type=listed(FORMATS), default=["Q4_K", "Q6_K", "Q8_0"], help="of the weights")
    parser.add_argument("--layouts", type=listed(LAYOUTS), default=list(LAYOUTS), help=", ".join(LAYOUTS))
    parser.add_argument("--levels", type=listed(levels), default=levels[:1], help=", ".join(levels))
    parser.add_argument("--sets", type=listed(SETS), default=list(SETS), help="which experts rows choose")
    parser.add_argument("--rows", type=lambda text: [int(n) for n in text.split(",")], default=[1, 2, 3, 4, 6, 8])
    parser.add_argument("--experts", type=int, default=64)
    parser.add_argument("--top-k", type=int, default=8)
    parser.add_argument("--hidden", type=int, default=5120)
    parser.add_argument("--ffn", type=int, default=1536)
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--threads", type=int, default=experts.num_threads())
    parser.add_argument("--no-ggml", action="store_true", help="without the comparison")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)  # one level, JSON lines
    args = parser.parse_args()
    weights, cache_bytes = 3 * args.experts * args.hidden * args.ffn, last_level_cache_bytes()
    smallest = min(FORMATS[name].block_bytes / FORMATS[name].block_weights for name in args.formats) * weights
    if smallest < 4 * cache_bytes:
        parser.error(f"experts of {smallest / 1e6:.0f} MB, caches of {cache_bytes / 1e6:.0f} MB: raise --experts")
    return args


def run_level(args: argparse.Namespace) -> None:
    """In a process of its own: a line of JSON for each timing."""
    isa.force(args.levels[0])
    experts.set_threads(args.threads)
    bench = Bench(Shape(args.experts, args.top_k, args.hidden, args.ffn), args.repeats, not args.no_ggml)
    for name in args.formats:
        for timing in bench.run(name, args.layouts, args.sets, args.rows):
            print(json.dumps(timing.as_json()), flush=True)


def line(timing: dict[str, Any], first_s: float) -> str:
    text = (
        f"{timing['level']:10} {timing['format']:7} {timing['layout']:11} {timing['experts']:8} {timing['rows']} rows"
        f" {timing['seconds'] * 1e3:8.2f} ms {timing['bytes_per_s'] / 1e9:5.1f} GB/s {timing['share']:4.0%}"
        f" of {timing['roofline_bytes_per_s'] / 1e9:4.1f}, x {timing['seconds'] / first_s:.2f}"
    )
    for name in ("ggml", "ggml_repacked"):
        if timing[f"{name}_s"]:
            text += f"; {name} {timing[f'{name}_s'] * 1e3:.2f} ms, {timing[f'{name}_s'] / timing['seconds']:.2f} x ours"
    return text


def main() -> None:
    args = arguments()
    if args.child:
        run_level(args)
        return
    experts.set_threads(args.threads)
    probe = Probe()
    samples = ram.read_by_threads(probe, ram.thread_counts(args.threads), 1.0)
    roofline = {count: sample.rate(probe.num_bytes) for count, sample in samples.items()}
    print("reads " + ", ".join(f"{rate / 1e9:.1f} GB/s on {count} threads" for count, rate in roofline.items()))
    ggml_level = Ggml(args.threads).level if available() and not args.no_ggml else None
    if ggml_level:
        print(f"ggml is compiled for {ggml_level}")
    timings: list[dict[str, Any]] = []
    first_s: dict[tuple[str, ...], float] = {}
    for level in args.levels:
        command = [sys.executable, "-m", "tools.bench_kernels", *sys.argv[1:], "--levels", level, "--child"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            for text in child.stdout:
                timing = json.loads(text)
                key = tuple(timing[name] for name in ("level", "format", "layout", "experts"))
                print(line(timing, first_s.setdefault(key, timing["seconds"])), flush=True)
                timings.append(timing)
        if child.returncode:
            sys.exit(child.returncode)
    print(
        json.dumps(
            {"threads": args.threads, "roofline_bytes_per_s": roofline, "ggml_level": ggml_level, "timings": timings}
        )
    )


if __name__ == "__main__":
    main()
