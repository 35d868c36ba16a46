"""The routers: the same experts, in the same order, as the CPU's kernels choose; one program for each row.

Shapes: T rows, E experts, K experts per row, N groups of J experts.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...transformer.config import SOFTMAX, Routing
from .launch import Kernel, power_of_two

NEVER = tl.constexpr(float("-inf"))


@triton.jit
def in_best_groups(choice, n, num_used_groups, BY_BEST: tl.constexpr):
    """-inf for the experts of other groups; a group is worth its best expert, or the sum of its best two."""
    j = tl.arange(0, choice.shape[1])[None, :]
    best = tl.max(choice, 1)
    value = best
    if not BY_BEST:
        first = tl.min(tl.where(choice == best[:, None], j, choice.shape[1]), 1)
        value = best + tl.max(tl.where(j == first[:, None], NEVER, choice), 1)
    is_open = tl.zeros_like(n)
    for _ in range(num_used_groups):
        group = tl.min(tl.where((value == tl.max(value, 0)) & (is_open == 0), n, choice.shape[0] - 1), 0)
        is_open = tl.where(n == group, 1, is_open)
        value = tl.where(n == group, NEVER, value)
    return tl.where(is_open[:, None] != 0, choice, NEVER)


@triton.jit
def route_kernel(
    logits, bias, ids, weights, N, J, num_used_groups, K, scale,
    GROUPS: tl.constexpr, SIZE: tl.constexpr, CHOSEN: tl.constexpr, SOFT: tl.constexpr, BY_BEST: tl.constexpr,
    NORMALIZES: tl.constexpr,
):  # fmt: skip
    """GROUPS, SIZE and CHOSEN are N, J and K, or the next powers of two."""
    row, E = tl.program_id(0), N * J
    n, j, k = tl.arange(0, GROUPS), tl.arange(0, SIZE)[None, :], tl.arange(0, CHOSEN)
    e, is_there = n[:, None] * J + j, (n[:, None] < N) & (j < J)
    logit = tl.load(logits + row * E + e, is_there, NEVER)
    if SOFT:
        weight = tl.exp(logit - tl.max(tl.max(logit, 1), 0))
        score = tl.div_rn(weight, tl.zeros_like(weight) + tl.sum(tl.sum(weight, 1), 0))
    else:
        score = tl.div_rn(tl.zeros_like(logit) + 1.0, 1.0 + tl.exp(-logit))
    choice = tl.where(is_there, score + tl.load(bias + e, is_there, 0.0), NEVER)
    if GROUPS > 1:
        choice = in_best_groups(choice, n, num_used_groups, BY_BEST)
    chosen, chosen_weight, total = tl.zeros([CHOSEN], tl.int32), tl.zeros([CHOSEN], tl.float32), 0.0
    for i in range(K):
        is_best = is_there & (choice == tl.max(tl.max(choice, 1), 0))
        best = tl.min(tl.min(tl.where(is_best, e, E - 1), 1), 0)  # a tie goes to the lower id
        best_score = tl.sum(tl.sum(tl.where(e == best, tl.where(is_there, score, 0.0), 0.0), 1), 0)
        choice = tl.where(e == best, NEVER, choice)
        chosen, chosen_weight = tl.where(k == i, best, chosen), tl.where(k == i, best_score, chosen_weight)
        total += best_score
    factor = tl.div_rn(scale, total) if NORMALIZES else scale
    tl.store(ids + row * K + k, chosen, k < K)
    tl.store(weights + row * K + k, chosen_weight * factor, k < K)


_route = Kernel(route_kernel)


def route(logits_TE: Tensor, bias_E: Tensor, routing: Routing) -> tuple[Tensor, Tensor]:
    """Expert ids int32 (T, K), best first (a tie goes to the lower id), and weights float32 (T, K)."""
    (T, E), K, N = logits_TE.shape, routing.num_used, routing.num_groups
    ids, weights = logits_TE.new_empty((T, K), dtype=torch.int32), logits_TE.new_empty((T, K))
    soft, J = routing.gating == SOFTMAX, E // N
    sizes = (power_of_two(size) for size in (N, J, K))
    _route(
        (T,), logits_TE.contiguous(), bias_E, ids, weights, N, J, routing.num_used_groups, K, float(routing.scale),
        constants=(*sizes, soft, soft or J == 1, routing.normalizes),
    )  # fmt: skip
    return ids, weights
