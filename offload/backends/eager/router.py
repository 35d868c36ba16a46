"""The routers on a torch device: the same experts, in the same order, as the CPU's kernels choose.

Shapes: T rows, E experts, K experts per row, N groups of experts.
"""

import torch
from torch import Tensor

from ...transformer.config import SOFTMAX, Routing
from .exact import exp, fixed_sum, sigmoid


def route(logits_TE: Tensor, bias_E: Tensor, routing: Routing) -> tuple[Tensor, Tensor]:
    """Expert ids int32 (T, K), best first (a tie goes to the lower id), and weights float32 (T, K)."""
    score_TE = _softmax(logits_TE) if routing.gating == SOFTMAX else sigmoid(logits_TE)
    choice_TE = score_TE + bias_E
    if routing.num_groups > 1:
        choice_TE = _in_best_groups(choice_TE, routing)
    expert_ids_TK = _ranked(choice_TE, routing.num_used)
    weights_TK = score_TE.gather(1, expert_ids_TK)
    factor: Tensor | float = routing.scale
    if routing.normalizes:
        total = weights_TK[:, 0]
        for k in range(1, routing.num_used):
            total = total + weights_TK[:, k]
        factor = (routing.scale / total)[:, None]
    return expert_ids_TK.to(torch.int32), weights_TK * factor


def _softmax(logits_TE: Tensor) -> Tensor:
    weights_TE = exp(logits_TE - logits_TE.amax(-1, keepdim=True))
    return weights_TE / fixed_sum(weights_TE)[:, None]


def _in_best_groups(choice_TE: Tensor, routing: Routing) -> Tensor:
    """-inf for the experts of all other groups."""
    choice_TNE = choice_TE.unflatten(1, (routing.num_groups, -1))
    best = choice_TNE.topk(min(1 if routing.gating == SOFTMAX else 2, choice_TNE.shape[2]), dim=2).values
    value_TN = best[..., 0] if best.shape[2] == 1 else best[..., 0] + best[..., 1]
    is_open = torch.zeros_like(value_TN).scatter(1, _ranked(value_TN, routing.num_used_groups), 1.0) > 0
    return choice_TNE.masked_fill(~is_open[..., None], -torch.inf).flatten(1)


def _ranked(choice_TE: Tensor, num: int) -> Tensor:
    """Ids of the largest choices, int64 (T, num). Keys of choice and id are never equal, so every top-k agrees."""
    E = choice_TE.shape[1]
    bits = choice_TE.view(torch.int32)
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(torch.int64)  # ascends as the floats do
    keys_TE = ordered * E + torch.arange(E - 1, -1, -1, device=choice_TE.device)
    return E - 1 - keys_TE.topk(num, dim=1).values % E
