"""The clock of an emulated card: it adds up how long one would have taken."""

from dataclasses import dataclass

from ...hardware.cards import Card


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
