"""Loads of rows shared among threads, for compiled functions that let others run meanwhile."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any

from numpy.typing import NDArray

import experts


@cache
def _threads(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, "rows")


def in_shares(function: Callable[..., Any], least: int, *arrays: NDArray[Any]) -> list[Any]:
    """Calls a function with equal shares of the arrays' rows, one for each thread; its results in order.

    Args:
        least: rows that are worth a thread.
    """
    rows = len(arrays[0])
    count = max(1, min(experts.num_threads(), rows // least))
    shares = [tuple(array[a:b] for array in arrays) for a, b in pairwise(rows * i // count for i in range(count + 1))]
    return [function(*shares[0])] if count == 1 else list(_threads(count).map(lambda share: function(*share), shares))
