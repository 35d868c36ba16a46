"""Cards that one need not have: their nominal figures, for the emulated device and for plans.

The numbers are the makers' (memory, bandwidth, float16 products with float32 sums); the link's is four fifths of its
nominal rate.
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
    "rtx-5090-pcie4": Card(32 * GIB, 1792e9, 25e9, 209e12),
    "rtx-5090-pcie5": Card(32 * GIB, 1792e9, 50e9, 209e12),
}
DEFAULT_CARD = "rtx-4090-pcie4"
