"""Which tensors of a checkpoint will be loaded: names and shapes compared with the architecture's table."""

import warnings
from collections.abc import Mapping

from ..checkpoints.checkpoint import Checkpoint, Tensor
from ..errors import CheckpointError, MissingTensors, OptionError
from ..transformer.arch import expected_tensors
from ..transformer.config import ModelConfig

MTP_MODES = ("auto", "on", "off")

_Expected = dict[str, tuple[tuple[int, ...], bool]]  # name -> shape, and whether it must be there


def usable_tensors(checkpoint: Checkpoint, config: ModelConfig, mtp: str = "auto") -> dict[str, Tensor]:
    """All tensors of the trunk, and those of the MTP block where it is there, known and wanted.

    Args:
        mtp: "auto" leaves an MTP block of an unknown kind out with a warning, "on" refuses it, "off" leaves any out.

    Raises:
        MissingTensors: tensors that the architecture needs, by name.
        CheckpointError: a wrong shape, or tensors left over, by name.
        OptionError: the MTP block is asked for but cannot be used.
    """
    if mtp not in MTP_MODES:
        raise OptionError(f"mtp is {mtp!r}; choose one of {', '.join(MTP_MODES)}")
    mtp_blocks = tuple(f"blk.{config.num_layers + i}." for i in range(config.num_mtp_layers))
    expected: dict[bool, _Expected] = {False: {}, True: {}}
    for name, shape, required in expected_tensors(config):
        expected[name.startswith(mtp_blocks)][name] = (shape, required)
    mtp_tensors = {name: t for name, t in checkpoint.tensors.items() if name.startswith(mtp_blocks)}
    trunk_tensors = {name: t for name, t in checkpoint.tensors.items() if name not in mtp_tensors}
    _check_trunk(trunk_tensors, expected[False], config.architecture)
    if mtp == "off":
        return trunk_tensors
    problem = _mtp_problem(mtp_tensors, expected[True], config.num_mtp_layers)
    if not problem:
        return {**trunk_tensors, **mtp_tensors}
    if mtp == "on":
        raise OptionError(f"the MTP block cannot be used: {problem}. Use --mtp auto or --mtp off")
    if mtp_blocks:
        warnings.warn(f"the MTP block is left out, there will be no MTP drafts: {problem}", stacklevel=4)
    return trunk_tensors


def _check_trunk(tensors: Mapping[str, Tensor], expected: _Expected, architecture: str) -> None:
    missing = [name for name, (_, required) in expected.items() if required and name not in tensors]
    if missing:
        raise MissingTensors(f"{listed(missing)} missing: the file is incomplete, or not a {architecture} model")
    left_over = [name for name in tensors if name not in expected]
    if left_over:
        raise CheckpointError(f"{listed(left_over)} not known to {architecture}: nothing here would use them")
    for name, tensor in tensors.items():
        shape = expected[name][0]
        if tensor.shape != shape:
            raise CheckpointError(f"tensor {name} has shape {tensor.shape}, the metadata ask for {shape}")


def _mtp_problem(tensors: Mapping[str, Tensor], expected: _Expected, num_blocks: int) -> str | None:
    """Why the MTP tensors are not the one kind that is known, or None."""
    if num_blocks == 0:
        return "the file has none"
    if num_blocks > 1:
        return f"the file has {num_blocks} of them, one is supported"
    for name, tensor in tensors.items():
        if name not in expected:
            return f"tensor {name} is of an unknown kind"
        if tensor.shape != expected[name][0]:
            return f"tensor {name} has shape {tensor.shape} instead of {expected[name][0]}"
    missing = [name for name, (_, required) in expected.items() if required and name not in tensors]
    return f"{listed(missing)} missing" if missing else None


def listed(names: list[str]) -> str:
    """tensor a is / tensors a, b, c and 7 more are."""
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"tensor {shown} is" if len(names) == 1 else f"tensors {shown} are"
