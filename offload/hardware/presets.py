"""Machines that one need not have: nominal figures by name, for plans. A card is added with a plus sign.

    ddr5-6000, ddr4-3200+rtx-3090-pcie4, epyc-12ch+rtx-5090-pcie5

What processors read is the part of the nominal rate of their memory that such machines are known to reach. How near to
it the kernels come is what was measured on one Zen 4 server: the memory's rate but for a seventh, or the arithmetic
of the cores where a format takes more of that.
"""

from dataclasses import dataclass

from experts import row_bytes

from .cards import CARDS, Card
from .cores import CORE_BYTES_PER_S
from .machine import program_version
from .schema import SCHEMA, Accelerator, Busy, Direction, Hardware, Latency, Link, Machine, Ram
from .speeds import KERNEL_FORMATS, MANY_ROWS

MEMORY_SHARE = 0.86  # of the read rate that expert kernels reach where memory is what bounds them
ROW_SECONDS = {1: 1.0, 2: 1.1, 3: 1.2, 4: 1.27, 6: 1.5}  # of a step on the same experts, over those of one row
CORE_FLOPS = 280e9  # of products with many rows, by one core
CORE_ATTENTION_FLOPS = 87e9  # of one row's attention, by one core


@dataclass(frozen=True)
class Computer:
    cpu: str
    cores: int
    memory_bytes: int
    read_bytes_per_s: float  # as read by all threads, not the nominal rate
    core_read_bytes_per_s: float  # by one


COMPUTERS = {
    "ddr4-3200": Computer("8 cores, DDR4-3200 on 2 channels (51 GB/s nominal)", 8, 128 << 30, 40e9, 18e9),
    "ddr5-6000": Computer("16 cores, DDR5-6000 on 2 channels (96 GB/s nominal)", 16, 192 << 30, 68e9, 30e9),
    "epyc-12ch": Computer("EPYC, 64 cores, DDR5-4800 on 12 channels (461 GB/s nominal)", 64, 768 << 30, 370e9, 22e9),
}


def is_preset(name: str) -> bool:
    return name.partition("+")[0] in COMPUTERS


def preset(name: str) -> Hardware:
    """A machine of this name, as in the examples above.

    Raises:
        KeyError: no such computer or card.
    """
    computer_name, plus, card_name = name.partition("+")
    computer, cards = COMPUTERS[computer_name], {card_name: CARDS[card_name]} if plus else {}
    knee = -int(-computer.read_bytes_per_s // computer.core_read_bytes_per_s)
    counts = sorted({1 << i for i in range(computer.cores.bit_length())} | {knee, computer.cores})
    read = {n: min(n * computer.core_read_bytes_per_s, computer.read_bytes_per_s) for n in counts}
    kernels = {}
    for kind, core_bytes_per_s in CORE_BYTES_PER_S.items():
        rate = min(MEMORY_SHARE * computer.read_bytes_per_s, computer.cores * core_bytes_per_s)
        kernels[kind] = {rows: rate / seconds for rows, seconds in ROW_SECONDS.items()}
        byte_flops = 2 * MANY_ROWS * 256 / row_bytes(KERNEL_FORMATS[kind], 256)
        kernels[kind][MANY_ROWS] = min(min(kernels[kind].values()), computer.cores * CORE_FLOPS / byte_flops)
    return Hardware(
        schema=SCHEMA,
        version=program_version(),
        machine=Machine(computer.cpu, computer.cores, computer.memory_bytes, preset=name),
        busy=Busy(),
        ram=Ram(read, knee, computer.read_bytes_per_s / 2),
        links={key: card_link(card) for key, card in cards.items()},
        accelerators={key: card_accelerator(key, card) for key, card in cards.items()},
        disk=None,
        kernels=kernels,
        latency_s=Latency(5e-6, 15e-6, {key: 3 * card.link_latency_s for key, card in cards.items()}),
        attention_flops=computer.cores * CORE_ATTENTION_FLOPS,
    )


def card_link(card: Card) -> Link:
    way = Direction(card.link_bytes_per_s, card.link_latency_s)
    return Link(way, way)


def card_accelerator(name: str, card: Card) -> Accelerator:
    return Accelerator(name, card.memory_bytes, card.memory_bytes_per_s, card.flops, card.launch_s)
