"""Products of encoded weights with rows: decoded a piece at a time, multiplied and summed in a fixed order.

Shapes: T rows, N outputs, D inputs, F expert FFN, E experts, K experts per row.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ...transformer.weights import DeviceExperts, DeviceMatrix
from .blocks import decode
from .exact import fixed_sum, silu


@dataclass(frozen=True)
class Products:
    iq4_values: Tensor  # float32 (16,) on the device
    piece: int  # elements that are decoded or multiplied at a time: bounds the scratch memory

    def linear(self, x: Tensor, weight: DeviceMatrix, bias: Tensor | None = None) -> Tensor:
        """Rows (T, D) times an encoded matrix (N, D), plus a bias: float32 (T, N)."""
        pieces = _ranges(weight.rows, self.piece // weight.columns)
        out = _joined((self._product(x, self._decoded(weight, weight.data[a:b])) for a, b in pieces), 1)
        return out if bias is None else out + bias

    def linear_heads(self, x_THC: Tensor, weight: DeviceMatrix) -> Tensor:
        """Every head times its own matrix of `weight` (H, N, C): float32 (T, H, N)."""
        pieces = _ranges(weight.rows, self.piece // (x_THC.shape[1] * weight.columns))
        decoded = (self._decoded(weight, weight.data[:, a:b]) for a, b in pieces)

        def product(weights_HNC: Tensor) -> Tensor:
            rows = _ranges(len(x_THC), self.piece // weights_HNC.numel())
            return _joined((fixed_sum(x_THC[a:b, :, None] * weights_HNC) for a, b in rows), 0)

        return _joined((product(weights_HNC) for weights_HNC in decoded), 2)

    def swiglu(self, x: Tensor, gate: DeviceMatrix, up: DeviceMatrix, down: DeviceMatrix) -> Tensor:
        return self.linear(silu(self.linear(x, gate)) * self.linear(x, up), down)

    def experts(self, x: Tensor, expert_ids_TK: Tensor, weights_TK: Tensor, layer: DeviceExperts) -> Tensor:
        """Weighted sums (T, D) of the experts that each row chose, in the order in which it lists them.

        Cost: reads every row's experts, also where two rows chose the same one.
        """
        T, K = expert_ids_TK.shape
        chosen = expert_ids_TK.flatten()  # stays on the device: the host need not know it
        pairs = x[:, None].expand(T, K, -1).flatten(0, 1)
        hidden = silu(self._by_expert(pairs, chosen, layer.gate)) * self._by_expert(pairs, chosen, layer.up)
        parts = (self._by_expert(hidden, chosen, layer.down).unflatten(0, (T, K)) * weights_TK[..., None]).unbind(1)
        return sum(parts[1:], start=parts[0])

    def embed(self, table: DeviceMatrix, token_ids: Tensor) -> Tensor:
        return self._decoded(table, table.data[token_ids])

    def _by_expert(self, x: Tensor, expert_ids: Tensor, stack: DeviceMatrix) -> Tensor:
        """Each row (T, D) times the matrix of its own expert (T,): (T, N)."""

        def rows(first: int, last: int) -> Tensor:
            pieces = _ranges(stack.rows, self.piece // stack.columns)
            weights_TND = (self._decoded(stack, stack.data[:, a:b][expert_ids[first:last]]) for a, b in pieces)
            return _joined((fixed_sum(x[first:last, None, :] * weights) for weights in weights_TND), 1)

        pieces = _ranges(len(x), self.piece // (stack.rows * stack.columns))
        return _joined((rows(first, last) for first, last in pieces), 0)

    def _product(self, x: Tensor, weights_ND: Tensor) -> Tensor:
        pieces = _ranges(len(x), self.piece // weights_ND.numel())
        return _joined((fixed_sum(x[a:b, None, :] * weights_ND) for a, b in pieces), 0)

    def _decoded(self, weight: DeviceMatrix, data: Tensor) -> Tensor:
        return decode(weight.format.name, data, weight.columns, self.iq4_values)


def _ranges(size: int, step: int) -> Iterator[tuple[int, int]]:
    step = max(1, step)
    return ((start, min(start + step, size)) for start in range(0, size, step))


def _joined(parts: Iterable[Tensor], dim: int) -> Tensor:
    first, *others = parts
    return torch.cat([first, *others], dim) if others else first
