"""The checked entry to the kernels: products of encoded weights with rows, and the expert FFN.

Legend: T rows, D hidden, F expert FFN, E experts, K experts per row, N outputs.

The result of a row is bitwise the same whatever rows are computed with it, in any order, on any number of threads.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from experts import kernels, tasks
from experts.checks import check_choices, check_ids, check_rows, check_vector, prepared_out
from experts.grouping import Grouping, group_rows, one_group
from experts.matrix import Matrix, Stack, address_of
from experts.plan import Plan, padded_bytes
from experts.store import ExpertLayer
from experts.threads import LOCK
from experts.workspace import Workspace

Floats = NDArray[np.float32]

_workspace = Workspace()


def linear(x: Floats, w: Matrix, bias: Floats | None = None, out: Floats | None = None) -> Floats:
    """Rows times an encoded matrix: out[t, n] = sum over c of x[t, c] * w[n, c], plus bias[n].

    Args:
        x: float32 (T, columns).
        w: N rows of `columns` weights.
        bias: float32 (N,).
        out: float32 (T, N) to write to.

    Returns:
        float32 (T, N).

    Raises:
        ValueError: A shape, type or layout is wrong.

    Cost: reads the matrix once, N * row_bytes.

    Accuracy: float formats as float32; others round x to 8 bits per 32 or 256 columns, about 0.7 % rms of the result.
    """
    return linear_many(x, (w,), (bias,), None if out is None else (out,))[0]


def linear_many(
    x: Floats, ws: Sequence[Matrix], biases: Sequence[Floats | None] | None = None, outs: Sequence[Floats] | None = None
) -> list[Floats]:
    """Several matrices applied to the same rows: one encoding of x, one parallel region.

    Args:
        x: float32 (T, columns).
        ws: Matrices of equally many columns.
        biases: For each matrix float32 (N,) or None.
        outs: For each matrix float32 (T, N) to write to.

    Returns:
        For each matrix float32 (T, N), the same bits as `linear`.

    Raises:
        ValueError: A shape, type or layout is wrong.

    Cost: reads each matrix once.
    """
    for w in ws:
        check_rows("x", x, w.columns)
    T = len(x)
    biases = [None] * len(ws) if biases is None else biases
    for w, bias in zip(ws, biases, strict=True):
        if bias is not None:
            check_vector("bias", bias, w.rows)
    given = [None] * len(ws) if outs is None else outs
    results = [prepared_out(out, T, w.rows) for w, out in zip(ws, given, strict=True)]
    if T == 0 or not ws:
        return results
    with LOCK:
        plan = Plan(_workspace)
        grouping = one_group(T)
        _encode(plan, x, ws)
        jobs = []
        for w, bias, result in zip(ws, biases, results, strict=True):
            activations = plan.encoded_addresses(w.format.activation, w.columns, w.format.activation, grouping.order)
            target = (address_of(result), result.strides[0])
            jobs.append(plan.job(w, grouping, activations, target, 0 if bias is None else address_of(bias)))
        plan.add_products(jobs)
        plan.run()
    return results


def moe_ffn(
    x: Floats, expert_ids: NDArray[np.int32], weights: Floats, layer: ExpertLayer, out: Floats | None = None
) -> Floats:
    """The routed experts of one layer: out[t] = sum over k of weights[t, k] * ffn(expert_ids[t, k], x[t]).

    ffn(e, x) = down_e(silu(gate_e x) * up_e x). The sum over k runs in the order in which the row lists its experts.

    Args:
        x: float32 (T, D).
        expert_ids: int32 (T, K) in [0, E); an expert may occur twice in a row.
        weights: float32 (T, K).
        layer: The experts.
        out: float32 (T, D) to write to.

    Returns:
        float32 (T, D).

    Raises:
        ValueError: A shape, type or layout is wrong, or an id is out of range.

    Cost: reads each distinct expert once, `layer.expert_bytes` each.
    """
    check_rows("x", x, layer.hidden)
    T = len(x)
    check_choices(expert_ids, weights, T, layer.num_experts)
    result = prepared_out(out, T, layer.hidden)
    K = expert_ids.shape[1]
    if T == 0 or K == 0:
        result[:] = 0.0
        return result
    weights = np.ascontiguousarray(weights)
    with LOCK:
        plan = Plan(_workspace)
        grouping = group_rows(np.ascontiguousarray(expert_ids), layer.num_experts)
        parts = _add_ffn(plan, x, grouping, grouping.order // K, (layer.gate, layer.up, layer.down))
        chunks = -(-layer.hidden // tasks.SUM_CHUNK_COLUMNS)
        context = plan.workspace.table(
            (*parts, address_of(weights), plan.workspace.table(grouping.positions), K, layer.hidden, chunks,
             address_of(result), result.strides[0])
        )  # fmt: skip
        plan.add(tasks.mixture_task(), context, T * chunks, T * parts[1])
        plan.run()
    return result


def swiglu_ffn(x: Floats, gate: Matrix, up: Matrix, down: Matrix, out: Floats | None = None) -> Floats:
    """A dense or shared FFN: down(silu(gate x) * up x).

    Args:
        x: float32 (T, D).
        gate: F rows of D weights.
        up: F rows of D weights.
        down: D rows of F weights.
        out: float32 (T, D) to write to.

    Returns:
        float32 (T, D).

    Raises:
        ValueError: A shape, type or layout is wrong.

    Cost: reads each matrix once.
    """
    shapes = [(w.rows, w.columns) for w in (gate, up, down)]
    F, D = shapes[0]
    if shapes[1] != (F, D) or shapes[2][1] != F:
        raise ValueError(f"gate, up and down must be (F, D), (F, D), (outputs, F), not {shapes}")
    check_rows("x", x, D)
    T = len(x)
    result = prepared_out(out, T, down.rows)
    if T == 0:
        return result
    with LOCK:
        plan = Plan(_workspace)
        grouping = one_group(T)
        _add_ffn(plan, x, grouping, grouping.order, (gate, up, down), (address_of(result), result.strides[0]))
        plan.run()
    return result


def gather_rows(matrix: Matrix, ids: NDArray[np.int64]) -> Floats:
    """Decoded rows of a matrix: the look-up of embeddings.

    Args:
        matrix: N rows of `columns` weights.
        ids: int64 (T,) in [0, N).

    Returns:
        float32 (T, columns).

    Raises:
        ValueError: Wrong type or shape, an id is out of range, or the rows are interleaved.

    Cost: reads T rows.
    """
    if matrix.interleaved:
        raise ValueError("interleaved rows cannot be looked up: keep tables of embeddings as the file has them")
    check_ids("ids", ids, np.int64, matrix.rows)
    if ids.ndim != 1:
        raise ValueError(f"ids must have shape (rows,), not {ids.shape}")
    result = np.empty((ids.size, matrix.columns), np.float32)
    if ids.size == 0:
        return result
    with LOCK:
        plan = Plan(_workspace)
        context = plan.workspace.table(
            (kernels.decoder(matrix.format), matrix.address, matrix.row_bytes, address_of(result), result.strides[0],
             matrix.columns, plan.workspace.table(ids))
        )  # fmt: skip
        plan.add(tasks.rows_task(), context, ids.size, result.nbytes)
        plan.run()
    return result


def dequantize(matrix: Matrix, first: int = 0, last: int | None = None) -> Floats:
    """The rows [first, last) as float32 (rows, columns).

    Raises:
        ValueError: The range does not lie in the matrix.
    """
    end = matrix.rows if last is None else last
    if not 0 <= first <= end <= matrix.rows:
        raise ValueError(f"rows [{first}, {end}) do not lie in [0, {matrix.rows})")
    return gather_rows(matrix, np.arange(first, end, dtype=np.int64))


def _encode(plan: Plan, x: Floats, ws: Sequence[Matrix | Stack]) -> None:
    """Adds a phase for each encoding that the matrices need; the scratch buffer has the name of the encoding."""
    source = (address_of(x), x.strides[0])
    for encoding in dict.fromkeys(w.format.activation for w in ws):
        context = plan.encoding_context(encoding, source, ws[0].columns, encoding, len(x))
        plan.add(tasks.rows_task(), context, len(x), x.nbytes)


def _add_ffn(
    plan: Plan,
    x: Floats,
    grouping: Grouping,
    rows: NDArray[np.int64],
    ws: tuple[Matrix | Stack, Matrix | Stack, Matrix | Stack],
    out: tuple[int, int] | None = None,
) -> tuple[int, int]:
    """Adds the phases of gate, up, SwiGLU and down for sorted pairs whose rows of x are `rows`.

    Returns:
        (address, row bytes) of the results, in sorted order: `out`, else a scratch buffer.
    """
    gate, up, down = ws
    pairs, F, D = len(rows), gate.rows, down.rows
    _encode(plan, x, (gate, up))
    hidden_bytes, part_bytes = padded_bytes(F), padded_bytes(D)
    gated = plan.workspace.address("gate", pairs * hidden_bytes)
    upped = plan.workspace.address("up", pairs * hidden_bytes)
    jobs = []
    for w, buffer in ((gate, gated), (up, upped)):
        activations = plan.encoded_addresses(w.format.activation, w.columns, w.format.activation, rows)
        jobs.append(plan.job(w, grouping, activations, (buffer, hidden_bytes)))
    plan.add_products(jobs)

    kind = down.format.activation
    encode = plan.encoding_context(kind, (gated, hidden_bytes), F, "hidden", pairs)
    swiglu = plan.workspace.table((gated, upped, hidden_bytes, F, tasks.rows_task(), encode))
    plan.add(tasks.swiglu_task(), swiglu, pairs, pairs * hidden_bytes)

    activations = plan.encoded_addresses(kind, F, "hidden", np.arange(pairs, dtype=np.int64))
    target = out or (plan.workspace.address("parts", pairs * part_bytes), part_bytes)
    plan.add_products([plan.job(down, grouping, activations, target)])
    return target
