"""GLM's router on a torch device: the same experts, in the same order, as experts/router.py chooses.

Shapes: T rows, E experts, K experts per row.
"""

import torch
from torch import Tensor

from .exact import sigmoid


def route(logits_TE: Tensor, bias_E: Tensor, num_used: int, normalize: bool, scale: float) -> tuple[Tensor, Tensor]:
    """Expert ids int32 (T, K), best first (a tie goes to the lower id), and weights float32 (T, K)."""
    score_TE = sigmoid(logits_TE)
    expert_ids_TK = _ranked(score_TE + bias_E, num_used)
    weights_TK = score_TE.gather(1, expert_ids_TK)
    factor: Tensor | float = scale
    if normalize:
        total = weights_TK[:, 0]
        for k in range(1, num_used):
            total = total + weights_TK[:, k]
        factor = (scale / total)[:, None]
    return expert_ids_TK.to(torch.int32), weights_TK * factor


def _ranked(choice_TE: Tensor, num: int) -> Tensor:
    """Ids of the largest choices, int64 (T, num). Keys of choice and id are never equal, so every top-k agrees."""
    E = choice_TE.shape[1]
    bits = choice_TE.view(torch.int32)
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(torch.int64)  # ascends as the floats do
    keys_TE = ordered * E + torch.arange(E - 1, -1, -1, device=choice_TE.device)
    return E - 1 - keys_TE.topk(num, dim=1).values % E
