"""Checks of what callers pass: the value and the legal range in every message."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def check_rows(name: str, array: Any, columns: int) -> None:
    """A float32 (T, columns) array with contiguous rows."""
    if not isinstance(array, np.ndarray) or array.dtype != np.float32:
        raise ValueError(f"{name} must be a float32 array, not {getattr(array, 'dtype', type(array).__name__)}")
    if array.ndim != 2 or array.shape[1] != columns:
        raise ValueError(f"{name} must have shape (rows, {columns}), not {array.shape}")
    if array.size and array.strides[1] != 4:
        raise ValueError(f"{name} must have contiguous rows, not strides {array.strides}")


def prepared_out(out: NDArray[np.float32] | None, rows: int, columns: int) -> NDArray[np.float32]:
    """The array for the results: the caller's, checked, or a new one."""
    if out is None:
        return np.empty((rows, columns), np.float32)
    check_rows("out", out, columns)
    if out.shape[0] != rows:
        raise ValueError(f"out must have {rows} rows, not {out.shape[0]}")
    if not out.flags.writeable:
        raise ValueError("out must be writable")
    return out


def check_vector(name: str, array: Any, size: int) -> None:
    """A contiguous float32 vector."""
    if not isinstance(array, np.ndarray) or array.dtype != np.float32 or array.shape != (size,):
        raise ValueError(f"{name} must be float32 of shape ({size},), not {_described(array)}")
    if not array.flags.c_contiguous:
        raise ValueError(f"{name} must be contiguous, not strides {array.strides}")


def check_ids(name: str, ids: Any, dtype: Any, limit: int) -> None:
    """Integers of one type in [0, limit)."""
    if not isinstance(ids, np.ndarray) or ids.dtype != dtype:
        raise ValueError(f"{name} must be a {np.dtype(dtype).name} array, not {_described(ids)}")
    if ids.size and not (int(ids.min()) >= 0 and int(ids.max()) < limit):
        wrong = int(ids[(ids < 0) | (ids >= limit)].flat[0])
        raise ValueError(f"{name} must be in 0..{limit - 1}, found {wrong}")


def check_choices(expert_ids: Any, weights: Any, rows: int, num_experts: int) -> None:
    """expert_ids int32 (T, K) and weights float32 (T, K)."""
    check_ids("expert_ids", expert_ids, np.int32, num_experts)
    if expert_ids.ndim != 2 or expert_ids.shape[0] != rows:
        raise ValueError(f"expert_ids must have shape ({rows}, experts per row), not {expert_ids.shape}")
    if not isinstance(weights, np.ndarray) or weights.dtype != np.float32 or weights.shape != expert_ids.shape:
        raise ValueError(f"weights must be float32 of shape {expert_ids.shape}, not {_described(weights)}")


def _described(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype.name} {value.shape}"
    return type(value).__name__
