"""Which layout the CPU's weights get, by a machine's memory and cores: asked before loading, and by plans.

Codebook formats can be expanded in a copy, which takes up to 1.6 times their memory and pays where cores are few beside
the memory's speed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import experts

from ..checkpoints.checkpoint import Tensor
from ..checkpoints.stored import format_of
from ..errors import OptionError

LAYOUTS = ("auto", "native", "interleaved", "expanded")
MARGIN_BYTES = 2 << 30  # what "auto" leaves free
LOOKED_UP = ("token_embd.weight", ".nextn.embed_tokens.weight")  # rows of these are decoded one by one


@dataclass(frozen=True)
class Host:
    """What the choice depends on.

    Attributes:
        free_bytes: memory that is free for copies.
        threads: that compute, each on a core.
        read_bytes_per_s: at which all of them together read memory; called where that decides.
        budget_bytes: what the copies may take in any case, None for no such limit.
    """

    free_bytes: int
    threads: int
    read_bytes_per_s: Callable[[], float]
    budget_bytes: int | None = None

    def has_room(self, num_bytes: int, spare_bytes: int = 0) -> bool:
        """For copies of this size, beside which so much is left free."""
        within = self.budget_bytes is None or num_bytes <= self.budget_bytes
        return within and num_bytes + spare_bytes <= self.free_bytes

    @property
    def room_bytes(self) -> int:
        return self.free_bytes if self.budget_bytes is None else max(0, min(self.free_bytes, self.budget_bytes))


@dataclass(frozen=True)
class LayoutChoice:
    """The names of tensors that are copied; all others stay as the file has them.

    Attributes:
        reason: what was chosen, for a person.
        interleaved: those whose rows are interleaved.
        added_bytes: of those that are expanded too, what they take beyond the file's bytes.
        packed: whether the file itself has interleaved rows.
    """

    reason: str
    interleaved: frozenset[str] = frozenset()
    added_bytes: Mapping[str, int] = field(default_factory=dict)
    packed: bool = False

    @property
    def name(self) -> str:
        """One of LAYOUTS."""
        if self.added_bytes:
            return "expanded"
        return "interleaved" if self.interleaved or self.packed else "native"


def can_be_copied(tensor: Tensor) -> bool:
    """Whether there is another layout for a tensor that the CPU computes with."""
    if tensor.interleaved or len(tensor.shape) < 2 or tensor.name.endswith(LOOKED_UP):
        return False
    return experts.can_interleave(format_of(tensor), tensor.num_rows)


def mapped_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Of those that stay in the mapped file, whatever is chosen."""
    return sum(tensor.num_bytes for tensor in tensors.values() if tensor.is_mapped and not can_be_copied(tensor))


def chosen_layout(choice: str, tensors: Mapping[str, Tensor], host: Host) -> LayoutChoice:
    """The layout of the CPU's tensors.

    Args:
        choice: one of LAYOUTS; "auto" interleaves where the copy finds room, and expands the formats for which that
            pays and finds room.
        tensors: those that the CPU computes with.

    Raises:
        OptionError: Unknown choice, or a copy that does not fit.
    """
    if choice not in LAYOUTS:
        raise OptionError(f"layout is {choice!r}; choose one of {', '.join(LAYOUTS)}")
    packed = any(tensor.interleaved for tensor in tensors.values())
    made = sum(tensor.num_bytes for tensor in tensors.values() if not tensor.is_mapped)
    if made > host.free_bytes:
        raise OptionError(
            f"weights that are made while loading need {made / 1e9:.1f} GB, {host.free_bytes / 1e9:.1f} GB are free: "
            "use a smaller --quantize, or moe-offload convert, whose file is mapped"
        )
    copied = {name: tensor for name, tensor in tensors.items() if can_be_copied(tensor)}
    if choice == "native" or not copied:
        why = "" if choice == "native" else ", in formats that have no other layout"
        return LayoutChoice("interleaved in the file" if packed else _NATIVE + why, packed=packed)
    need = made + sum(tensor.num_bytes for tensor in copied.values() if tensor.is_mapped)
    added = {} if choice == "interleaved" else _added_bytes(copied)
    spare = MARGIN_BYTES if choice == "auto" else 0
    if choice == "auto" and host.has_room(need, spare):
        added = _that_pay(added, copied, host)
    more = sum(added.values())
    if added and host.has_room(need + more, spare):
        return LayoutChoice(f"interleaved, codebooks expanded by {more / 1e9:.1f} GB", frozenset(copied), added, packed)
    need += more if choice == "expanded" else 0
    if host.has_room(need, spare):
        return LayoutChoice("interleaved", frozenset(copied), packed=packed)
    shortage = f"a copy needs {need / 1e9:.1f} GB, {host.room_bytes / 1e9:.1f} GB are free"
    if choice != "auto":
        smaller = "auto" if added else "native, or moe-offload pack"
        raise OptionError(f"layout {choice} does not fit: {shortage}. Use --layout {smaller}")
    at_no_cost = frozenset(name for name, tensor in copied.items() if not tensor.is_mapped)
    return LayoutChoice(f"{_NATIVE} ({shortage})", at_no_cost, packed=packed)


_NATIVE = "native: rows as the file has them"


def _added_bytes(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """By the names of tensors that can be expanded: the memory that it takes beyond their own."""
    added = {}
    for name, tensor in tensors.items():
        wide = experts.expanded_format(format_of(tensor), tensor.num_rows)
        if wide is not None and tensor.is_mapped:
            row_bytes = experts.row_bytes(wide, tensor.shape[-1])
            added[name] = tensor.num_matrices * tensor.num_rows * row_bytes - tensor.num_bytes
    return added


def _that_pay(added: Mapping[str, int], tensors: Mapping[str, Tensor], host: Host) -> dict[str, int]:
    """Those of `added` with which steps are faster."""
    if not added:
        return {}
    formats, rate = {name: format_of(tensors[name]) for name in added}, host.read_bytes_per_s()
    pays = {fmt: experts.expanding_pays(fmt, host.threads, rate) for fmt in set(formats.values())}
    return {name: num_bytes for name, num_bytes in added.items() if pays[formats[name]]}
