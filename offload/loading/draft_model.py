"""Loads a second, small model that drafts: whole, onto the device where the first one runs.

The same tokens must stand in both vocabularies, each at the same id.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.open import open_checkpoint
from ..drafting import check_on_one_device
from ..errors import OptionError
from ..placement import HOST, Placement
from ..transformer.backend import Backend
from ..transformer.config import config_of
from ..transformer.trunk import Trunk
from .assemble import CacheSize, assemble
from .layout import choose_layout
from .tensors import usable_tensors

TOKENS = "tokenizer.ggml.tokens"


def load_draft_model(
    path: str | Path, target: Checkpoint, device: str, backends: Mapping[str, Backend], size: CacheSize, layout: str
) -> Trunk:
    """The draft model, its MTP block left out.

    Args:
        target: the model that it drafts for.
        device: where that runs.
        layout: of weights on the CPU.

    Raises:
        OptionError: another vocabulary; the message names the first token that differs.
        DeviceMemoryFull: the device's memory does not hold it.
        CheckpointError: the file is damaged, incomplete, or not supported.
    """
    checkpoint = open_checkpoint(path)
    config = config_of(checkpoint)
    check_same_vocabulary(target.metadata.get(TOKENS, []), checkpoint.metadata.get(TOKENS, []), path)
    if config.vocab_size != (rows := config_of(target).vocab_size):
        raise OptionError(f"the draft model {path} gives scores for {config.vocab_size} tokens, the model for {rows}")
    tensors = usable_tensors(checkpoint, config, "off")
    placement = Placement(device, dict.fromkeys(tensors, device), dict.fromkeys(range(config.num_layers), device))
    check_on_one_device(placement)
    chosen = choose_layout(layout, tensors if device == HOST else {})
    trunk, _ = assemble(tensors, config, placement, backends, chosen, size, whose="draft model's ")
    return trunk


def check_same_vocabulary(wanted: Sequence[str], found: Sequence[str], path: str | Path) -> None:
    """Drafts are token ids: they mean the same in both models, or nothing.

    Raises:
        OptionError: the first token that differs.
    """
    for token_id, (ours, theirs) in enumerate(zip(wanted, found, strict=False)):
        if ours != theirs:
            raise OptionError(
                f"the draft model {path} has another vocabulary: token {token_id} is {theirs!r} there and {ours!r} in "
                "the model. Choose one of the same family"
            )
    if len(wanted) != len(found):
        raise OptionError(
            f"the draft model {path} has another vocabulary: {len(found)} tokens instead of {len(wanted)}. "
            "Choose one of the same family"
        )
