"""Products of encoded weights with rows through the kernels of frame.py: chooses sizes, makes outputs, launches.

Shapes: T rows, N outputs, D inputs, K experts per row.
"""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from ...transformer.weights import DeviceExperts, DeviceMatrix
from .blocks import GROUP_SIZE
from .elementwise import silu_times, weighted_sums
from .frame import embed_kernel, experts_kernel, linear_kernel
from .launch import Kernel, ceil_div, power_of_two

# Part of every result's bits: lanes that an output is summed in, all in one warp.
LANES, WARPS = 256, 1
# No part of any: what a program computes. 16 sums of 256 lanes take half of a warp's registers.
OUTPUTS, MOST_ROWS = 4, 4
FEW_OUTPUTS = 4096  # so few that programs for several of them leave a card idle

_linear, _by_expert, _embed = (Kernel(function, WARPS) for function in (linear_kernel, experts_kernel, embed_kernel))


def rows_of_a_program(num_rows: int) -> int:
    return min(MOST_ROWS, power_of_two(num_rows))


def outputs_of_a_program(num_rows: int, num_outputs: int) -> int:
    """What was fastest on an H100 in Q8_0 and Q4_K: up to 2.5 times as fast as OUTPUTS for one row and few outputs."""
    if num_rows > MOST_ROWS:
        return OUTPUTS
    if num_rows > 2:
        return 2
    if num_outputs <= FEW_OUTPUTS:
        return 1
    return 2 if num_rows == 1 else OUTPUTS


@cache
def piece_of(format_name: str) -> tuple[int, int]:
    """Groups and weights of a group that are decoded at a time."""
    return LANES // GROUP_SIZE[format_name], GROUP_SIZE[format_name]


@dataclass(frozen=True)
class TritonProducts:
    """As `offload.backends.eager.products.Products`; a row's bits depend on that row alone."""

    def linear(self, x: Tensor, weight: DeviceMatrix, bias: Tensor | None = None) -> Tensor:
        """Rows (T, D) times an encoded matrix (N, D), plus a bias: float32 (T, N)."""
        x, T, N = x.contiguous(), len(x), weight.rows
        out = x.new_empty((T, N))
        rows, outputs = rows_of_a_program(T), outputs_of_a_program(T, N)
        _linear(
            (ceil_div(T, rows) * ceil_div(N, outputs),),
            x, weight.data, x if bias is None else bias, out, T, N, weight.columns, weight.data.shape[-1],
            constants=(weight.format.name, piece_of(weight.format.name), outputs, rows, bias is not None),
        )  # fmt: skip
        return out

    def swiglu(self, x: Tensor, gate: DeviceMatrix, up: DeviceMatrix, down: DeviceMatrix) -> Tensor:
        return self.linear(silu_times(self.linear(x, gate), self.linear(x, up)), down)

    def experts(self, x: Tensor, expert_ids_TK: Tensor, weights_TK: Tensor, layer: DeviceExperts) -> Tensor:
        """Weighted sums (T, D) of the experts that each row chose, in the order in which it lists them.

        Cost: reads every row's experts, also where two rows chose the same one.
        """
        x, chosen, uses = x.contiguous(), expert_ids_TK.contiguous(), expert_ids_TK.shape[1]
        hidden = silu_times(self._by_expert(x, chosen, layer.gate, uses), self._by_expert(x, chosen, layer.up, uses))
        return weighted_sums(self._by_expert(hidden, chosen, layer.down, 1), weights_TK.contiguous())

    def linear_heads(self, x_THC: Tensor, weight: DeviceMatrix) -> Tensor:
        """Every head times its own matrix: (T, H, N)."""
        T, H, _ = x_THC.shape
        heads = torch.arange(H, dtype=torch.int32, device=x_THC.device).repeat(T)
        return self._by_expert(x_THC.flatten(0, 1).contiguous(), heads, weight, 1).unflatten(0, (T, H))

    def embed(self, table: DeviceMatrix, token_ids: Tensor) -> Tensor:
        out = torch.empty((len(token_ids), table.columns), dtype=torch.float32, device=table.data.device)
        _embed(
            (len(out), ceil_div(table.columns, LANES)),
            table.data, token_ids, out, table.columns, table.data.shape[-1],
            constants=(table.format.name, piece_of(table.format.name)),
        )  # fmt: skip
        return out

    def _by_expert(self, x: Tensor, expert_ids_TK: Tensor, stack: DeviceMatrix, uses: int) -> Tensor:
        """(P, N): for every choice p, row p // `uses` of x times the matrix of that expert."""
        out = x.new_empty((expert_ids_TK.numel(), stack.rows))
        _by_expert(
            (len(out), ceil_div(stack.rows, OUTPUTS)),
            x, stack.data, expert_ids_TK, out, stack.rows, stack.columns, stack.data.shape[-1], uses,
            constants=(stack.format.name, piece_of(stack.format.name), OUTPUTS),
        )  # fmt: skip
        return out
