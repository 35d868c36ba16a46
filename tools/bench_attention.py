"""Speed of attention over long contexts, against the memory bandwidth and the arithmetic measured in the same run.

    python -m tools.bench_attention --types f16,q8_0 --contexts 8192,32768 --rows 1,2,4

GLM-4.7's heads by default. Successive calls read other slots, so that keys and values come from memory. Attention has
to read the cache once and do four operations for each cached element, query head that shares it, and row; with many
heads sharing and few cores the arithmetic takes longer. The bound is the longer of the two times, measured in turn
with attention. Prints a table, then one JSON document on the last line.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numba
import numpy as np
from numba import njit, prange
from numba.cpython.unsafe.tuple import tuple_setitem

import experts
from experts import isa
from experts.attention import CACHE_TYPES, KeysValues, attention, storage_shapes, write_rows
from experts.attention.tile import add_outer, register_rows
from experts.products.frame import repeat
from experts.simd.float_lanes import total_f32
from experts.simd.vec import splat_f32x16, zeros_f32x16
from offload.hardware.probe import PROBE_BYTES, Probe

PROBE_STEPS = 200_000
SLOTS_BYTES = 256 << 20  # caches of one measurement, far above the last-level cache
ROWS, WIDTH = register_rows()


@njit(parallel=True, nogil=True, error_model="numpy")
def multiply_add(factors: Any, parts: int, steps: int) -> Any:
    """As many fused multiply-adds as the registers allow at a time, on each thread."""
    sums = np.zeros(parts, np.float32)
    for part in prange(parts):
        tile = repeat(repeat(zeros_f32x16(), WIDTH), ROWS)
        row = repeat(splat_f32x16(np.float32(1.5)), WIDTH)
        for j in range(WIDTH):  # equal ones would be computed once
            row = tuple_setitem(row, j, splat_f32x16(np.float32(1.5 + j)))
        for _ in range(steps):
            tile = add_outer(tile, factors.ctypes.data, 4, row)
        for i in range(ROWS):
            for j in range(WIDTH):
                sums[part] += total_f32(tile[i][j])
    return sums


def alternating_seconds(runs: Sequence[Callable[[int], object]], repeats: int) -> list[float]:
    """Median time of each of the functions, called in turn; the first two rounds do not count."""
    times = []
    for i in range(repeats + 2):
        times.append([_timed(run, i) for run in runs])
    return [statistics.median(column) for column in zip(*times[2:], strict=True)]


def _timed(run: Callable[[int], object], i: int) -> float:
    start = time.perf_counter()
    run(i)
    return time.perf_counter() - start


def random_cache(kind: str, slots: int, num: int, args: argparse.Namespace) -> KeysValues:
    """Slots with the same random keys and values."""
    G, C = args.kv_heads, args.head_size
    shapes = storage_shapes(CACHE_TYPES[kind], (slots, G), num, C)
    cache = KeysValues(CACHE_TYPES[kind], C, *(np.zeros(shape, np.uint8) for shape in shapes))
    rng = np.random.default_rng(0)
    for start in range(0, num, 1024):
        positions = np.arange(start, min(start + 1024, num))
        k, v = rng.standard_normal((2, len(positions), G, C), dtype=np.float32)
        for slot in range(slots):
            write_rows(k, v, cache, np.full(len(positions), slot), positions)
    return cache


def measure(kind: str, context: int, rows: int, args: argparse.Namespace) -> dict[str, Any]:
    """One line of the table."""
    num_bytes = context * args.kv_heads * 2 * CACHE_TYPES[kind].row_bytes(args.head_size)
    slots = -(-SLOTS_BYTES // num_bytes)
    cache = random_cache(kind, slots, context, args)
    q = np.random.default_rng(1).standard_normal((rows, args.heads, args.head_size), dtype=np.float32)
    probe, factors = Probe(), np.arange(ROWS, dtype=np.float32)

    def step(i: int) -> None:
        attention(q, cache, np.full(rows, i % slots), np.arange(context - rows, context))

    read_s, multiply_s, step_s = alternating_seconds(
        (
            lambda _: probe.read(),
            lambda _: multiply_add(factors, args.threads, PROBE_STEPS),
            step,
        ),
        args.repeats,
    )
    operations = 4 * rows * args.heads * args.head_size * context
    probe_operations = args.threads * PROBE_STEPS * ROWS * WIDTH * 32
    memory_s, arithmetic_s = num_bytes * read_s / PROBE_BYTES, operations * multiply_s / probe_operations
    return {
        "type": kind,
        "context": context,
        "rows": rows,
        "step_s": step_s,
        "bytes_per_s": num_bytes / step_s,
        "read_bytes_per_s": PROBE_BYTES / read_s,
        "flop_per_s": operations / step_s,
        "peak_flop_per_s": probe_operations / multiply_s,
        "bound": "memory" if memory_s > arithmetic_s else "arithmetic",
        "share": max(memory_s, arithmetic_s) / step_s,
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Speed of attention against memory and arithmetic.")
    parser.add_argument("--types", default=",".join(CACHE_TYPES), help="of the cache")
    parser.add_argument("--contexts", default="8192,32768", help="cached positions")
    parser.add_argument("--rows", default="1,2,4", help="rows of one sequence")
    parser.add_argument("--heads", type=int, default=96)
    parser.add_argument("--kv-heads", type=int, default=8)
    parser.add_argument("--head-size", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=experts.num_threads())
    return parser.parse_args()


def main() -> None:
    args = arguments()
    experts.set_threads(args.threads)
    numba.set_num_threads(args.threads)
    print(f"{isa.level()}, {args.threads} threads; share of the bound in the same line")
    results = []
    for kind in args.types.split(","):
        for context in map(int, args.contexts.split(",")):
            for rows in map(int, args.rows.split(",")):
                result = measure(kind, context, rows, args)
                results.append(result)
                print(
                    f"{kind:5} {context:6} {rows} rows {result['step_s'] * 1e3:7.2f} ms"
                    f" {result['bytes_per_s'] / 1e9:5.1f} of {result['read_bytes_per_s'] / 1e9:5.1f} GB/s"
                    f" {result['flop_per_s'] / 1e9:4.0f} of {result['peak_flop_per_s'] / 1e9:4.0f} GFLOP/s"
                    f" {result['share']:4.0%} ({result['bound']})"
                )
                sys.stdout.flush()
    print(json.dumps({"level": isa.level(), "threads": args.threads, "results": results}))


if __name__ == "__main__":
    main()
