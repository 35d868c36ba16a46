"""Keys and values on a torch device, and attention over them with a running softmax.

Shapes: T rows, H query heads, G key-value heads, R = H / G heads that share one, C head size, L layers, N slots, S
positions, J positions of a chunk, B bytes of an encoded head.

Positions are taken in chunks of fixed size from 0 on, and a row's masked positions add exactly nothing: so its result
depends on its query and on what it sees, not on how far the other rows of the step see.
"""

import torch
from torch import Tensor

import experts

from ...errors import OptionError
from ...transformer.kv_cache import CACHE_TYPES
from ...transformer.rows import check_room
from .blocks import decode, encode
from .exact import exp, fixed_sum
from .rows import DeviceRows

CHUNK = 128  # positions that are taken together
FORMATS = {kind: experts.FORMATS[kind.upper()] for kind in CACHE_TYPES}


class DeviceCache:
    """A cache of fixed size for a number of slots, in device memory: encoded rows, as weights are.

    Raises:
        OptionError: the kind cannot hold heads of this size.
    """

    def __init__(self, device: torch.device, shape_LNGSC: tuple[int, ...], kind: str):
        self.format, self.head_size = _format(kind), shape_LNGSC[-1]
        self.k_LNGSB = _zeros(device, shape_LNGSC, kind)
        self.v_LNGSB = _zeros(device, shape_LNGSC, kind)

    @property
    def num_layers(self) -> int:
        return len(self.k_LNGSB)

    @property
    def num_positions(self) -> int:
        return int(self.k_LNGSB.shape[3])

    @property
    def bytes_per_token(self) -> int:
        """Bytes that one position takes over all layers."""
        num_layers, _, num_kv_heads, _, row_bytes = self.k_LNGSB.shape
        return int(2 * num_layers * num_kv_heads * row_bytes)

    def write(self, layer: int, rows: DeviceRows, k_TGC: Tensor, v_TGC: Tensor) -> None:
        """Stores the rows' keys and values.

        Raises:
            ContextFull: a position lies outside the cache; nothing is written then.
        """
        check_room(rows.host, self.num_positions)
        self.k_LNGSB[layer][rows.slots, :, rows.positions] = encode(self.format.name, k_TGC)
        self.v_LNGSB[layer][rows.slots, :, rows.positions] = encode(self.format.name, v_TGC)

    def copy_slot(self, source: int, target: int, num_positions: int) -> None:
        """Copies the first positions of a slot to another, as they stand; what lies behind them there is undefined."""
        for x_LNGSB in (self.k_LNGSB, self.v_LNGSB):
            x_LNGSB[:, target, :, :num_positions] = x_LNGSB[:, source, :, :num_positions]

    @property
    def num_kv_heads(self) -> int:
        return int(self.k_LNGSB.shape[2])

    def read(self, layer: int, slots_T: Tensor, start: int, size: int) -> tuple[Tensor, Tensor]:
        """Keys and values of each row's slot at positions [start, start + size): float32 (T, G, size, C)."""
        k, v = (part[layer].narrow(2, start, size)[slots_T] for part in (self.k_LNGSB, self.v_LNGSB))
        return decode(self.format.name, k, self.head_size), decode(self.format.name, v, self.head_size)


class DeviceLatentCache:
    """Rows of compressed keys and values, of which every head reads the same.

    Raises:
        OptionError: the kind cannot hold rows of this size.
    """

    num_kv_heads = 1

    def __init__(self, device: torch.device, shape_LNSC: tuple[int, ...], kind: str):
        self.format, self.row_size = _format(kind), shape_LNSC[-1]
        self.x_LNSB = _zeros(device, shape_LNSC, kind)

    @property
    def num_layers(self) -> int:
        return len(self.x_LNSB)

    @property
    def num_positions(self) -> int:
        return int(self.x_LNSB.shape[2])

    @property
    def bytes_per_token(self) -> int:
        """Bytes that one position takes over all layers."""
        return int(self.x_LNSB.shape[0] * self.x_LNSB.shape[3])

    def write(self, layer: int, rows: DeviceRows, x_TC: Tensor) -> None:
        """Stores the rows.

        Raises:
            ContextFull: a position lies outside the cache; nothing is written then.
        """
        check_room(rows.host, self.num_positions)
        self.x_LNSB[layer][rows.slots, rows.positions] = encode(self.format.name, x_TC)

    def copy_slot(self, source: int, target: int, num_positions: int) -> None:
        """Copies the first positions of a slot to another, as they stand; what lies behind them there is undefined."""
        self.x_LNSB[:, target, :num_positions] = self.x_LNSB[:, source, :num_positions]

    def read(self, layer: int, slots_T: Tensor, start: int, size: int) -> tuple[Tensor, Tensor]:
        """Each row's slot at positions [start, start + size), as keys and as values: float32 (T, 1, size, C)."""
        x_TSC = decode(self.format.name, self.x_LNSB[layer].narrow(1, start, size)[slots_T], self.row_size)
        return x_TSC[:, None], x_TSC[:, None]


def _format(kind: str) -> experts.Format:
    if kind not in FORMATS:
        raise OptionError(f"cache type {kind!r} is unknown; choose one of {', '.join(FORMATS)}")
    return FORMATS[kind]


def _zeros(device: torch.device, shape: tuple[int, ...], kind: str) -> Tensor:
    """Encoded zeros in place of the last dimension."""
    try:
        row_bytes = experts.row_bytes(_format(kind), shape[-1])
    except ValueError as error:
        raise OptionError(f"cache type {kind!r}, heads of {shape[-1]}: {error}") from None
    return torch.zeros((*shape[:-1], row_bytes), dtype=torch.uint8, device=device)


def attention(
    q_THC: Tensor, cache: DeviceCache | DeviceLatentCache, layer: int, rows: DeviceRows, piece: int
) -> Tensor:
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


def _attend(q_THC: Tensor, cache: DeviceCache | DeviceLatentCache, layer: int, rows: DeviceRows) -> Tensor:
    T, H, C = q_THC.shape
    G = cache.num_kv_heads
    q = (q_THC * C**-0.5).unflatten(1, (G, H // G))[:, :, :, None]  # (T, G, R, 1, C)
    highest = q.new_full((T, G, H // G), -torch.inf)
    sums, out = torch.zeros_like(highest), q.new_zeros((T, G, H // G, C))
    for start in range(0, rows.extent, CHUNK):
        size = min(CHUNK, cache.num_positions - start)
        seen = torch.arange(start, start + size, device=q.device) <= rows.positions[:, None]  # (T, J)
        k, v = cache.read(layer, rows.slots, start, size)  # (T, G, J, C)
        v = v.masked_fill(~seen[:, None, :, None], 0.0)[:, :, None]  # what stands behind a row may be anything
        scores = fixed_sum(q * k[:, :, None]).masked_fill(~seen[:, None, None], -torch.inf)  # (T, G, R, J)
        now = torch.maximum(highest, scores.amax(-1))
        weights = exp(scores - now[..., None]).masked_fill(~seen[:, None, None], 0.0)
        shrink = exp(highest - now)
        sums = sums * shrink + fixed_sum(weights)
        out = out * shrink[..., None] + fixed_sum(weights[..., None] * v, -2)
        highest = now
    return (out / sums[..., None]).flatten(1, 2)
