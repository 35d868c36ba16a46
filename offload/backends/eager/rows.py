"""The rows of a step on a torch device."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...transformer.rows import Rows


@dataclass(frozen=True)
class DeviceRows:
    """As `Rows`, all int64 (T,) on the device. The host knows slots and positions, and the ids that it gave."""

    host: Rows
    token_ids: Tensor
    slots: Tensor
    positions: Tensor

    def __len__(self) -> int:
        return len(self.host)

    def __getitem__(self, index: slice) -> "DeviceRows":
        return DeviceRows(self.host[index], self.token_ids[index], self.slots[index], self.positions[index])

    def take(self, parts: Sequence[slice]) -> "DeviceRows":
        """These ranges of the rows; nothing crosses."""
        taken = (torch.cat([a[part] for part in parts]) for a in (self.token_ids, self.slots, self.positions))
        return DeviceRows(self.host.take(parts), *taken)

    def next(self, token_ids: Tensor) -> "DeviceRows":
        """The rows that follow each of these in its slot; the host does not know their tokens."""
        unknown = np.full(len(self), -1, np.int64)
        return DeviceRows(self.host.next(unknown), token_ids, self.slots, self.positions + 1)

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.token_ids, self.slots, self.positions

    @property
    def extent(self) -> int:
        """Positions from 0 to the last one of any row."""
        return int(self.host.positions.max(initial=-1)) + 1
