"""Speed of the expert FFN on this processor, as a share of the memory bandwidth measured in the same run.

    python -m tools.bench_kernels --formats Q4_K,Q6_K --rows 1,2,4,6

One step is one layer of GLM-4.7's shape with the same eight experts for all rows; the experts of successive steps
differ, so that weights come from memory. Prints a table, then one JSON document on the last line.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba import njit, prange

import experts
from experts import FORMATS, ExpertLayer, Format, MatrixStack, isa, moe_ffn, row_bytes

# Where the float16 fields of a block lie, if not at its beginning only; MXFP4 has none.
HALF_FIELDS = {
    "Q4_1": (0, 2), "Q5_1": (0, 2), "MXFP4": (), "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2),
    "Q6_K": (208,),
}  # fmt: skip
PROBE_BYTES = 512 << 20


@njit(parallel=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
def read_all(words: Any, parts: int) -> Any:
    """Reads every word once, each part on one thread."""
    sums = np.zeros(parts, np.int64)
    size = words.size // parts
    for part in prange(parts):
        sums[part] = words[part * size : (part + 1) * size].sum()
    return sums


def seconds(run: Callable[[int], object], repeats: int) -> float:
    """Median time of run(0), run(1), ...; the first two do not count."""
    times = []
    for i in range(repeats + 2):
        start = time.perf_counter()
        run(i)
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


def random_stack(fmt: Format, num_experts: int, rows: int, columns: int) -> MatrixStack:
    """Random weights with finite scales."""
    rng = np.random.default_rng(0)
    shape = (num_experts, rows, row_bytes(fmt, columns))
    if fmt.block_weights == 1:
        values = rng.standard_normal((num_experts, rows, columns), dtype=np.float32)
        halves = values.astype(np.float16) if fmt.name == "F16" else (values.view(np.uint32) >> 16).astype(np.uint16)
        return MatrixStack.from_bytes(fmt, num_experts, rows, columns, values if fmt.name == "F32" else halves)
    data = rng.integers(0, 256, shape, dtype=np.uint8)
    blocks = data.reshape(-1, fmt.block_bytes)
    for field in HALF_FIELDS.get(fmt.name, (0,)):
        blocks[:, field : field + 2] = np.frombuffer(np.float16(0.01).tobytes(), np.uint8)
    if fmt.name == "MXFP4":
        blocks[:, 0] = 121  # 2**-7
    return MatrixStack.from_bytes(fmt, num_experts, rows, columns, data)


def random_layer(fmt: Format, args: argparse.Namespace) -> ExpertLayer:
    E, F, D = args.experts, args.ffn, args.hidden
    gate, up, down = (random_stack(fmt, E, *shape) for shape in ((F, D), (F, D), (D, F)))
    return ExpertLayer(gate, up, down)


def step_seconds(layer: ExpertLayer, rows: int, args: argparse.Namespace) -> float:
    """Median time of one step whose rows share their experts."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((rows, layer.hidden), dtype=np.float32)
    weights = np.full((rows, args.top_k), 1 / args.top_k, np.float32)
    sets = layer.num_experts // args.top_k

    def step(i: int) -> None:
        first = i % sets * args.top_k
        ids = np.tile(np.arange(first, first + args.top_k, dtype=np.int32), (rows, 1))
        moe_ffn(x, ids, weights, layer)

    return seconds(step, args.repeats)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Speed of the expert FFN against the memory bandwidth.")
    parser.add_argument("--formats", default="Q4_K,Q6_K,Q8_0", help=f"of {','.join(FORMATS)}")
    parser.add_argument("--rows", default="1,2,4,6", help="rows of a step, the first is the reference")
    parser.add_argument("--experts", type=int, default=32)
    parser.add_argument("--top-k", type=int, default=8)
    parser.add_argument("--hidden", type=int, default=5120)
    parser.add_argument("--ffn", type=int, default=1536)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=experts.num_threads())
    parser.add_argument("--level", choices=isa.LEVELS, help="vector instructions, at most the processor's best")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    if args.level:
        isa.force(args.level)
    experts.set_threads(args.threads)
    numba.set_num_threads(args.threads)
    words = np.ones(PROBE_BYTES // 8, np.int64)

    def bandwidth() -> float:
        return PROBE_BYTES / seconds(lambda _: read_all(words, args.threads), 7)

    ceiling = bandwidth()
    print(f"{isa.level()}, {args.threads} threads, reads {ceiling / 1e9:.1f} GB/s")
    results = []
    for name in args.formats.split(","):
        layer = random_layer(FORMATS[name], args)
        read_bytes = args.top_k * layer.expert_bytes
        first_s = 0.0
        for rows in map(int, args.rows.split(",")):
            experts.prepare([FORMATS[name]], rows)
            ceiling = bandwidth()  # again before each: other work on the machine changes it
            step_s = step_seconds(layer, rows, args)
            first_s = first_s or step_s
            result = {
                "format": name,
                "rows": rows,
                "step_s": step_s,
                "bytes_per_s": read_bytes / step_s,
                "read_bytes_per_s": ceiling,
                "share": read_bytes / step_s / ceiling,
                "relative_cost": step_s / first_s,
            }
            results.append(result)
            print(
                f"{name:5} {rows} rows {step_s * 1e3:7.2f} ms {read_bytes / step_s / 1e9:6.1f} GB/s"
                f" {result['share']:5.0%} of {ceiling / 1e9:.1f}, cost x {result['relative_cost']:.2f}"
            )
            sys.stdout.flush()
    print(json.dumps({"level": isa.level(), "threads": args.threads, "results": results}))


if __name__ == "__main__":
    main()
