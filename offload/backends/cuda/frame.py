"""The one frame of all products: pieces of encoded rows are decoded in registers and applied to up to ROWS rows of x.

Every output is summed in the same order, whatever the number of rows: position k of a row belongs to lane k mod LANES
of its output, a lane adds its products one after the other (fused multiply-add), and the lanes are added at the end.
GEMV for one row and GEMM for a prompt are this one kernel with other ROWS, whose piece, and with it the order in which
lanes are added, is the same. So no tensor cores: their order is another one, as is `tl.dot`'s.

Cost: a prompt decodes its weights again for every ROWS rows, and multiplies in float32.

Shapes: G groups and W weights of a group in a piece, LANES = G x W.
"""

import triton
import triton.language as tl

from .blocks import decode


@triton.jit
def multiplied(
    x, first, last, weights, n, N, columns, row_bytes,
    FORMAT: tl.constexpr, PIECE: tl.constexpr, OUTPUTS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Rows `first`, `first` + 1, ... of x times encoded rows `n`, `n` + 1, ...: OUTPUTS x ROWS numbers.

    Args:
        x: float32, rows of `columns`.
        last: the last row of x; it stands in for those behind it, as row N - 1 does for the encoded ones.
        PIECE: (G, W).
    """
    GROUPS: tl.constexpr = PIECE[0]
    WIDTH: tl.constexpr = PIECE[1]
    lane = tl.arange(0, WIDTH)[None, :]
    sums = ()
    for _ in tl.static_range(OUTPUTS * ROWS):
        sums = sums + (tl.zeros(PIECE, tl.float32),)
    for start in range(0, tl.cdiv(columns, WIDTH), GROUPS):
        group = start + tl.arange(0, GROUPS)[:, None]
        inside = tl.minimum(group, tl.cdiv(columns, WIDTH) - 1)
        column = group * WIDTH + lane
        parts = ()
        for r in tl.static_range(ROWS):
            parts = parts + (tl.load(x + tl.minimum(first + r, last) * columns + column, column < columns, 0.0),)
        added = ()
        for i in tl.static_range(OUTPUTS):
            row = weights + tl.minimum(n + i, N - 1).to(tl.int64) * row_bytes
            piece = decode(FORMAT, row, inside, lane, columns)
            for r in tl.static_range(ROWS):
                added = added + (tl.fma(piece, parts[r], sums[i * ROWS + r]),)
        sums = added
    totals = ()
    for i in tl.static_range(OUTPUTS * ROWS):
        totals = totals + (tl.sum(tl.sum(sums[i], 1), 0),)
    return totals


@triton.jit
def linear_kernel(
    x, weights, bias, out, T, N, K, row_bytes,
    FORMAT: tl.constexpr, PIECE: tl.constexpr, OUTPUTS: tl.constexpr, ROWS: tl.constexpr, HAS_BIAS: tl.constexpr,
):  # fmt: skip
    """out (T, N) = x (T, K) times encoded weights (N, K), plus a bias.

    Grid: tiles of outputs x tiles of rows, along the one axis that is long enough for a vocabulary.
    """
    tiles = tl.cdiv(T, ROWS)
    first, n = tl.program_id(0) % tiles * ROWS, tl.program_id(0) // tiles * OUTPUTS
    totals = multiplied(x, first, T - 1, weights, n, N, K, row_bytes, FORMAT, PIECE, OUTPUTS, ROWS)
    for i in tl.static_range(OUTPUTS):
        for r in tl.static_range(ROWS):
            if (first + r < T) & (n + i < N):
                total = totals[i * ROWS + r]
                if HAS_BIAS:
                    total += tl.load(bias + n + i)
                tl.store(out + (first + r) * N + n + i, total)


@triton.jit
def experts_kernel(
    x, weights, expert_ids, out, N, K, row_bytes, uses,
    FORMAT: tl.constexpr, PIECE: tl.constexpr, OUTPUTS: tl.constexpr,
):  # fmt: skip
    """out (P, N): row p // `uses` of x times the matrix (N, K) of expert p. Grid: pairs p, tiles of outputs."""
    pair, n = tl.program_id(0), tl.program_id(1) * OUTPUTS
    matrix = weights + tl.load(expert_ids + pair).to(tl.int64) * N * row_bytes
    row = pair // uses
    totals = multiplied(x, row, row, matrix, n, N, K, row_bytes, FORMAT, PIECE, OUTPUTS, 1)
    for i in tl.static_range(OUTPUTS):
        if n + i < N:
            tl.store(out + pair * N + n + i, totals[i])


@triton.jit
def embed_kernel(table, token_ids, out, K, row_bytes, FORMAT: tl.constexpr, PIECE: tl.constexpr):
    """out (T, K): rows of an encoded table. Grid: rows, pieces of columns."""
    GROUPS: tl.constexpr = PIECE[0]
    WIDTH: tl.constexpr = PIECE[1]
    row, lane = tl.program_id(0).to(tl.int64), tl.arange(0, WIDTH)[None, :]
    group = tl.program_id(1) * GROUPS + tl.arange(0, GROUPS)[:, None]
    encoded = table + tl.load(token_ids + row) * row_bytes
    values = decode(FORMAT, encoded, tl.minimum(group, tl.cdiv(K, WIDTH) - 1), lane, K)
    column = group * WIDTH + lane
    tl.store(out + row * K + column, values, column < K)
