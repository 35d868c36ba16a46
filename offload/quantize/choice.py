"""Which tensor gets which format, when a model is quantized while it is loaded or converted."""

from collections.abc import Mapping

import experts

from ..checkpoints.checkpoint import Tensor
from ..errors import OptionError
from ..transformer.arch import role_of
from ..transformer.config import ModelConfig

SOURCES = ("F32", "F16", "BF16", "FP8_E4M3")  # others are quantized already and stay as they are
NAMES = ("q8_0", "q6_k", "q5_k", "q4_k", "q4_0")  # what users can ask for

# What rows take whose length is no multiple of 256.
NARROW = {"Q6_K": "Q8_0", "Q5_K": "Q8_0", "Q4_K": "Q5_0"}
KEPT_WIDE = ("router",)  # float32: a small error there sends a token to other experts
FINE = ("Q8_0", "Q6_K")  # what the head takes at least


def checked_format(flag: str, name: str | None) -> str | None:
    """The format with this name, None for none.

    Raises:
        OptionError: it is not one of NAMES.
    """
    if name is None or name in NAMES:
        return name and name.upper()
    raise OptionError(f"{flag} is {name!r}; choose one of {', '.join(NAMES)}")


def chosen_formats(
    tensors: Mapping[str, Tensor], config: ModelConfig, quantize: str | None, mtp_quantize: str | None
) -> dict[str, str]:
    """The formats of the tensors that are to be quantized.

    Matrices get `quantize`, the head at least Q6_K. The MTP block, and the trunk's head where the block uses that, get
    `mtp_quantize`, by default 8 bits: drafts from a head of 4 bits are hardly ever right. Vectors, routers and what is
    quantized already are left out.

    Raises:
        OptionError: an unknown format, or nothing to quantize.
    """
    fmt = checked_format("quantize", quantize)
    mtp_fmt = checked_format("mtp_quantize", mtp_quantize) or (fmt and "Q8_0")
    block = f"blk.{config.num_layers}.nextn."
    shares_head = f"{block}eh_proj.weight" in tensors and f"{block}shared_head_head.weight" not in tensors
    head = "output.weight" if "output.weight" in tensors else "token_embd.weight"
    chosen = {}
    for name, tensor in tensors.items():
        role = role_of(name, config)
        wanted = mtp_fmt if role == "mtp" or (name == head and shares_head) else fmt
        if wanted and name == head and role != "mtp" and not shares_head and wanted not in FINE:
            wanted = "Q6_K"
        is_router = role in KEPT_WIDE or name.endswith("ffn_gate_inp.weight")
        if wanted and len(tensor.shape) > 1 and not is_router and format_name(tensor) in SOURCES:
            fitting = _fitting(wanted, tensor.shape[-1])
            if fitting:
                chosen[name] = fitting
    if (fmt or mtp_fmt) and not chosen:
        raise OptionError("there is nothing to quantize, all matrices are quantized already: leave --quantize out")
    return chosen


def format_name(tensor: Tensor) -> str | None:
    """The name of a tensor's format, None for one that no kernel reads."""
    try:
        return experts.format_of(tensor.ggml_type).name
    except experts.UnsupportedFormat:
        return None


def _fitting(name: str, columns: int) -> str | None:
    """The format, or the one for narrow rows; None where not even a block of 32 fits."""
    if columns % experts.FORMATS[name].block_weights:
        name = NARROW.get(name, name)
    return None if columns % experts.FORMATS[name].block_weights else name
