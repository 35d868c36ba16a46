"""config.json of a Hugging Face folder as metadata of a GGUF file."""

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, UnsupportedModel
from .hf_names import HF_ARCHITECTURES, HfArchitecture

FLOATS = (  # what GGUF has as floats, whatever JSON has
    "attention.layer_norm_rms_epsilon", "rope.freq_base", "expert_weights_scale", "rope.scaling.factor",
    "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow", "rope.scaling.yarn_log_multiplier",
)  # fmt: skip
FP8 = ("fp8", "compressed-tensors")  # methods whose FP8 weights are read; other weights of theirs show by their type


def architecture_of(path: Path, config: dict[str, Any]) -> HfArchitecture:
    """The table of a model.

    Raises:
        UnsupportedModel: none is known for it.
        CheckpointError: the number of layers is missing.
    """
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    if not isinstance(name, str) or name not in HF_ARCHITECTURES:
        raise UnsupportedModel(f"{path}: architecture {name!r} is not supported; known: {', '.join(HF_ARCHITECTURES)}")
    whole_number(config, "num_hidden_layers")
    kind = HF_ARCHITECTURES[name]
    for key, values in kind.required.items():
        if config.get(key) not in values:
            raise UnsupportedModel(f"{path}: {key} is {config.get(key)!r:.60}; {name} runs with {values[0]!r} alone")
    return kind


def check_quantization(path: Path, config: dict[str, Any]) -> None:
    """Refuses weights that are quantized in a way that nothing here reads.

    Raises:
        UnsupportedModel: another way than FP8.
        CheckpointError: no object.
    """
    found = config.get("quantization_config") or {}
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: quantization_config is {found!r:.60}, not an object: download it again")
    method = found.get("quant_method", FP8[0])
    if method not in FP8:
        raise UnsupportedModel(
            f"{path}: the weights are quantized by {method!r:.60}; FP8, BF16, F16 and F32 are supported: use such a "
            "folder, or a GGUF file of the model"
        )


def whole_number(config: dict[str, Any], key: str) -> int:
    """A number of 1 or more that must be there.

    Raises:
        CheckpointError: it is not.
    """
    value = config.get(key)
    if type(value) is not int or value < 1:
        raise CheckpointError(f"config.json: {key} is {value!r:.60}, must be 1 or more: download it again")
    return value


def block_of(name: str) -> int | None:
    """The number of a tensor's block, by its name in GGUF; None outside blocks."""
    found = re.match(r"blk\.(\d{1,6})\.", name)
    return int(found[1]) if found else None


def config_metadata(config: dict[str, Any], kind: HfArchitecture, names: Collection[str]) -> dict[str, Any]:
    """Sizes under GGUF's keys.

    Args:
        names: of the tensors that are there, in GGUF's words; they tell how many MTP blocks there are.

    Raises:
        UnsupportedModel: a rotation that nothing here can run.
        CheckpointError: a value of a wrong type.
    """
    num_layers = config["num_hidden_layers"]
    num_mtp = sum(block is not None and block >= num_layers for block in set(map(block_of, names)))
    values: dict[str, Any] = {"block_count": num_layers + num_mtp, "nextn_predict_layers": num_mtp, **kind.fixed}
    for theirs, ours in kind.keys.items():
        if config.get(theirs) is not None:
            values.update(dict.fromkeys(ours, config[theirs]))
    values.update(_head(config, kind))
    values.update(_rope(config))
    for key, value in values.items():
        if key == "rope.scaling.type":
            continue
        if not isinstance(value, bool | int | float) or abs(value) >= 1 << 63:
            raise CheckpointError(f"config.json: the value of {key} is {value!r:.60}, must be a number")
        if key in FLOATS and type(value) is int:
            values[key] = float(value)
    return {f"{kind.name}.{key}": value for key, value in values.items()}


def _head(config: dict[str, Any], kind: HfArchitecture) -> dict[str, Any]:
    """Sizes of heads that config.json does not hold as they are."""
    rope = _rope_of(config)
    share = rope.get("partial_rotary_factor", config.get("partial_rotary_factor", kind.rotated_share))
    try:
        if kind.is_latent:
            rotated, plain = config["qk_rope_head_dim"], config["qk_nope_head_dim"]
            return {
                "attention.key_length": config["kv_lora_rank"] + rotated,
                "attention.key_length_mla": plain + rotated,
            }
        head_size = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
        return {"rope.dimension_count": int(head_size * share)}
    except (KeyError, TypeError, ValueError, ArithmeticError):
        raise CheckpointError("config.json: sizes of heads are missing or no numbers: download it again") from None


def _rope(config: dict[str, Any]) -> dict[str, Any]:
    """The rotation's base, and how it was stretched for longer contexts."""
    rope = _rope_of(config)
    base = {"rope.freq_base": rope.get("rope_theta", config.get("rope_theta", 10000.0))}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return base
    if kind != "yarn" or rope.get("mscale", 1) != rope.get("mscale_all_dim", 1):
        raise UnsupportedModel(f"config.json: RoPE of type {kind!r} is not supported: {rope}")
    names = {
        "factor": "factor",
        "original_max_position_embeddings": "original_context_length",
        "beta_fast": "yarn_beta_fast",
        "beta_slow": "yarn_beta_slow",
    }
    scaling = {ours: rope[theirs] for theirs, ours in names.items() if theirs in rope}
    if "mscale_all_dim" in rope:
        scale = rope["mscale_all_dim"]
        if type(scale) not in (int, float):
            raise CheckpointError(f"config.json: mscale_all_dim is {scale!r:.60}, must be a number")
        scaling["yarn_log_multiplier"] = 0.1 * scale
    return {**base, "rope.scaling.type": "yarn", **{f"rope.scaling.{key}": value for key, value in scaling.items()}}


def _rope_of(config: dict[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key in ("rope_scaling", "rope_parameters"):
        found = config.get(key) or {}
        if not isinstance(found, dict):
            raise CheckpointError(f"config.json: {key} is {found!r:.60}, not an object: download it again")
        result |= found
    return result
