"""config.json of a Hugging Face folder as metadata of a GGUF file."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from .errors import CheckpointError, UnsupportedModel
from .hf_names import HF_ARCHITECTURES, HfArchitecture


def architecture_of(path: Path, config: dict[str, Any]) -> HfArchitecture:
    """The table of a model.

    Raises:
        UnsupportedModel: none is known for it.
        CheckpointError: the number of layers is missing.
    """
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    if name not in HF_ARCHITECTURES:
        raise UnsupportedModel(f"{path}: architecture {name!r} is not supported; known: {', '.join(HF_ARCHITECTURES)}")
    if type(config.get("num_hidden_layers")) is not int or config["num_hidden_layers"] < 1:
        raise CheckpointError(f"{path}: num_hidden_layers is {config.get('num_hidden_layers')!r}, must be 1 or more")
    kind = HF_ARCHITECTURES[name]
    for key, values in kind.required.items():
        if config.get(key) not in values:
            raise UnsupportedModel(f"{path}: {key} is {config[key]!r}; {name} runs with {values[0]!r} alone")
    return kind


def config_metadata(config: dict[str, Any], kind: HfArchitecture, names: Collection[str]) -> dict[str, Any]:
    """Sizes under GGUF's keys.

    Args:
        names: of the tensors that are there, in GGUF's words; they tell how many MTP blocks there are.

    Raises:
        UnsupportedModel: a rotation that nothing here can run.
        CheckpointError: a value of a wrong type.
    """
    num_layers = config["num_hidden_layers"]
    blocks = {int(name.split(".")[1]) for name in names if name.startswith("blk.")}
    num_mtp = sum(block >= num_layers for block in blocks)
    values: dict[str, Any] = {"block_count": num_layers + num_mtp, "nextn_predict_layers": num_mtp, **kind.fixed}
    for theirs, ours in kind.keys.items():
        if config.get(theirs) is not None:
            values.update(dict.fromkeys(ours, config[theirs]))
    values.update(_rope(config, kind))
    for key, value in values.items():
        if not isinstance(value, bool | int | float):
            raise CheckpointError(f"config.json: the value of {key} is {value!r:.60}, must be a number")
    return {f"{kind.name}.{key}": value for key, value in values.items()}


def _rope(config: dict[str, Any], kind: HfArchitecture) -> dict[str, Any]:
    rope = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    scaling = rope.get("rope_type", rope.get("type", "default"))
    if scaling != "default":
        raise UnsupportedModel(f"config.json: RoPE of type {scaling!r} is not supported, only 'default'")
    base = rope.get("rope_theta", config.get("rope_theta", 10000.0))
    share = rope.get("partial_rotary_factor", config.get("partial_rotary_factor", kind.rotated_share))
    try:
        head_size = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
        return {"rope.freq_base": float(base), "rope.dimension_count": int(head_size * share)}
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        raise CheckpointError("config.json: head_dim, rope_theta or partial_rotary_factor is no number") from None
