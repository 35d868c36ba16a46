"""Keys and values on a torch device, and attention over them with a running softmax.

Shapes: T rows, H query heads, G key-value heads, R = H / G heads that share one, C head size, L layers, N slots, S
positions, J positions of a chunk.

Positions are taken in chunks of fixed size from 0 on, and a row's masked positions add exactly nothing: so its result
depends on its query and on what it sees, not on how far the other rows of the step see.
"""

import torch
from torch import Tensor

from ..errors import ContextFull, OptionError
from .exact import exp, fixed_sum
from .rows import DeviceRows

CACHE_TYPES = {"f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32}
CHUNK = 128


class DeviceCache:
    """A cache of fixed size for a number of slots, in device memory."""

    def __init__(self, device: torch.device, shape_LNGSC: tuple[int, ...], kind: str):
        if kind not in CACHE_TYPES:
            raise OptionError(f"cache type {kind!r} is not known on {device}; choose one of {', '.join(CACHE_TYPES)}")
        self.k_LNGSC = torch.zeros(shape_LNGSC, dtype=CACHE_TYPES[kind], device=device)
        self.v_LNGSC = torch.zeros(shape_LNGSC, dtype=CACHE_TYPES[kind], device=device)

    @property
    def num_layers(self) -> int:
        return len(self.k_LNGSC)

    @property
    def num_positions(self) -> int:
        return int(self.k_LNGSC.shape[3])

    @property
    def bytes_per_token(self) -> int:
        """Bytes that one position takes over all layers."""
        num_layers, _, num_kv_heads, _, head_size = self.k_LNGSC.shape
        return int(2 * num_layers * num_kv_heads * head_size * self.k_LNGSC.element_size())

    def write(self, layer: int, rows: DeviceRows, k_TGC: Tensor, v_TGC: Tensor) -> None:
        """Stores the rows' keys and values.

        Raises:
            ContextFull: a position lies outside the cache; nothing is written then.
        """
        if rows.extent > self.num_positions:
            raise ContextFull(
                f"position {rows.extent - 1} is outside the context of {self.num_positions}: raise --context"
            )
        self.k_LNGSC[layer][rows.slots, :, rows.positions] = k_TGC.to(self.k_LNGSC.dtype)
        self.v_LNGSC[layer][rows.slots, :, rows.positions] = v_TGC.to(self.v_LNGSC.dtype)


def attention(q_THC: Tensor, cache: DeviceCache, layer: int, rows: DeviceRows, piece: int) -> Tensor:
    """softmax(q k^T / sqrt(C)) v over each row's slot, up to its own position: float32 (T, H, C).

    Args:
        piece: elements that are multiplied at a time.
    """
    T, H, C = q_THC.shape
    step = max(1, piece // (H * CHUNK * C))
    parts = [
        _attend(q_THC[first : first + step], cache, layer, rows[first : first + step]) for first in range(0, T, step)
    ]
    return torch.cat(parts)


def _attend(q_THC: Tensor, cache: DeviceCache, layer: int, rows: DeviceRows) -> Tensor:
    k_NGSC, v_NGSC = cache.k_LNGSC[layer], cache.v_LNGSC[layer]
    T, H, C = q_THC.shape
    G = k_NGSC.shape[1]
    q = (q_THC * C**-0.5).unflatten(1, (G, H // G))[:, :, :, None]  # (T, G, R, 1, C)
    highest = q.new_full((T, G, H // G), -torch.inf)
    sums, out = torch.zeros_like(highest), q.new_zeros((T, G, H // G, C))
    for start in range(0, rows.extent, CHUNK):
        size = min(CHUNK, cache.num_positions - start)
        seen = torch.arange(start, start + size, device=q.device) <= rows.positions[:, None]  # (T, J)
        k = k_NGSC.narrow(2, start, size)[rows.slots].to(torch.float32)[:, :, None]  # (T, G, 1, J, C)
        v = v_NGSC.narrow(2, start, size)[rows.slots].to(torch.float32)
        v = v.masked_fill(~seen[:, None, :, None], 0.0)[:, :, None]  # what stands behind a row may be anything
        scores = fixed_sum(q * k).masked_fill(~seen[:, None, None], -torch.inf)  # (T, G, R, J)
        now = torch.maximum(highest, scores.amax(-1))
        weights = exp(scores - now[..., None]).masked_fill(~seen[:, None, None], 0.0)
        shrink = exp(highest - now)
        sums = sums * shrink + fixed_sum(weights)
        out = out * shrink[..., None] + fixed_sum(weights[..., None] * v, -2)
        highest = now
    return (out / sums[..., None]).flatten(1, 2)
