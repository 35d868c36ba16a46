"""What is known of a machine: the profile hardware.json, presets of machines that one does not have, cards."""

from .cards import CARDS, Card
from .find import Found, find_hardware, profile_of_this_machine
from .presets import COMPUTERS, card_accelerator, card_link, preset
from .schema import (
    EXPERT_COLUMNS,
    LONG_COLUMNS,
    SCHEMA,
    Accelerator,
    Busy,
    Direction,
    Disk,
    Hardware,
    Latency,
    Link,
    Machine,
    Ram,
)
from .speeds import accelerator_device, for_prompts, host_device
from .store import read_hardware, user_path, write_hardware

__all__ = [
    "CARDS",
    "COMPUTERS",
    "EXPERT_COLUMNS",
    "LONG_COLUMNS",
    "SCHEMA",
    "Accelerator",
    "Busy",
    "Card",
    "Direction",
    "Disk",
    "Found",
    "Hardware",
    "Latency",
    "Link",
    "Machine",
    "Ram",
    "accelerator_device",
    "card_accelerator",
    "card_link",
    "find_hardware",
    "for_prompts",
    "host_device",
    "preset",
    "profile_of_this_machine",
    "read_hardware",
    "user_path",
    "write_hardware",
]
