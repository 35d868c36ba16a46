"""Cards that can be emulated, and the clock that adds up how long one would have taken.

The numbers are the makers' nominal ones (memory, bandwidth, float16 products with float32 sums), the link's is four
fifths of its nominal rate.
"""

from dataclasses import dataclass

GIB = 1 << 30


@dataclass(frozen=True)
class Card:
    memory_bytes: int
    memory_bytes_per_s: float
    link_bytes_per_s: float  # each way
    flops: float
    link_latency_s: float = 8e-6
    launch_s: float = 3e-6


CARDS = {
    "rtx-3060-pcie4": Card(12 * GIB, 360e9, 25e9, 51e12),
    "rtx-4060ti-pcie4": Card(16 * GIB, 288e9, 12.5e9, 88e12),
    "rtx-3090-pcie4": Card(24 * GIB, 936e9, 25e9, 71e12),
    "rtx-4090-pcie4": Card(24 * GIB, 1008e9, 25e9, 165e12),
    "rtx-5090-pcie5": Card(32 * GIB, 1792e9, 50e9, 209e12),
}
DEFAULT_CARD = "rtx-4090-pcie4"


@dataclass
class Clock:
    """Seconds that a card would have been at work: what its kernels and its transfers take at the least."""

    card: Card
    link_s: float = 0.0
    device_s: float = 0.0
    host_s: float = 0.0  # experts in RAM, as long as they really took on this processor

    @property
    def total_s(self) -> float:
        """All of it one after the other: what really overlaps (the shared expert, prefetching) makes a card faster."""
        return self.link_s + self.device_s + self.host_s

    def transfer(self, num_bytes: int) -> None:
        self.link_s += self.card.link_latency_s + num_bytes / self.card.link_bytes_per_s

    def kernel(self, num_bytes: int, flops: int) -> None:
        """One kernel that reads so many bytes and does so many operations, whichever takes longer."""
        self.device_s += self.card.launch_s + max(num_bytes / self.card.memory_bytes_per_s, flops / self.card.flops)
