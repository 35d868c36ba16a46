"""A Hugging Face folder (config.json, safetensors files, tokenizer.json) as a checkpoint like any other.

Float tensors are views of the mapped files, the experts of a stack each where it lies. FP8 weights and their scales
are put together when they are asked for.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import experts

from ..errors import CheckpointError, MissingTensors, UnsupportedModel
from .checkpoint import Checkpoint, Content, Mapped, Tensor
from .fp8 import Fp8Matrix
from .hf_config import architecture_of, block_of, check_quantization, config_metadata, whole_number
from .hf_names import BLOCK, EXPERT, IGNORED, HfArchitecture
from .hf_tokenizer import read_json, tokenizer_metadata
from .latent_split import JOINED, split
from .safetensors_header import SafetensorsFile, StoredTensor

FLOATS = {"F32": "F32", "F16": "F16", "BF16": "BF16", "F8_E4M3": "FP8_E4M3"}  # formats of elements
INDEX = "model.safetensors.index.json"
SCALES = (".weight_scale_inv", ".weight_scale")


def is_hf_folder(path: Path) -> bool:
    """Whether this is a folder that `open_folder` reads."""
    return (path / "config.json").is_file()


def open_folder(folder: Path) -> Checkpoint:
    """Maps the files of a folder.

    Raises:
        CheckpointError: a file is missing or damaged, or contradicts another one.
        UnsupportedModel: an architecture or a type of elements that nothing here can run.
        TokenizerError: another kind of tokenizer.
    """
    config = read_json(folder / "config.json")
    kind = architecture_of(folder / "config.json", config)
    check_quantization(folder / "config.json", config)
    files = [SafetensorsFile(path) for path in _paths(folder)]
    stored: dict[str, tuple[int, StoredTensor]] = {}
    for number, file in enumerate(files):
        for name, tensor in file.tensors.items():
            if name in stored:
                file.fail(f"tensor {name!r} stands in {files[stored[name][0]].path.name} too: the files are mixed up")
            stored[name] = (number, tensor)
    _check_index(folder, stored)
    tensors = _Tensors(config, kind, stored).all()
    embedding = tensors.get("token_embd.weight")
    if embedding is None:
        raise MissingTensors(f"{folder}: tensor model.embed_tokens.weight is missing: the folder is incomplete")
    _warn_of_expanded(tensors)
    metadata = {
        "general.architecture": kind.name,
        "general.name": _name(folder.resolve()),
        **config_metadata(config, kind, tensors),
        **tokenizer_metadata(folder, config, kind, embedding.shape[0]),
    }
    return Checkpoint(tuple(file.path for file in files), metadata, tensors)


def _name(folder: Path) -> str:
    """The folder's own, or in the cache of downloads (models--USER--REPO/snapshots/HASH) that of the repository."""
    is_cache = folder.parent.name == "snapshots"
    return folder.parents[1].name.rpartition("--")[2] if is_cache else folder.name


def _warn_of_expanded(tensors: Mapping[str, Tensor]) -> None:
    names = [name for name, t in tensors.items() if isinstance(t.content, Fp8Content) and t.content.expand]
    if names:
        num_bytes = sum(tensors[name].num_bytes for name in names)
        warnings.warn(
            f"{names[0]} and {len(names) - 1} other FP8 tensors have rows that are no multiple of 128: they are used "
            f"as float32, {num_bytes / 1e9:.2f} GB, unless they are quantized",
            stacklevel=3,
        )


def _paths(folder: Path) -> list[Path]:
    """The files that the index names, or the only one there is."""
    if (folder / INDEX).exists():
        names = sorted({str(name) for name in _weight_map(folder).values()})
        there = {path.name for path in folder.iterdir()}  # and nothing outside the folder
        missing = [name for name in names if name not in there]
        if missing:
            raise CheckpointError(
                f"{folder}: {len(missing)} of {len(names)} files are not there: {', '.join(missing[:5]):.300}"
            )
        return [folder / name for name in names]
    found = sorted(folder.glob("*.safetensors"))
    if len(found) != 1:
        raise CheckpointError(
            f"{folder}: there are {len(found)} safetensors files and no {INDEX}: download the folder again"
        )
    return found


def _weight_map(folder: Path) -> dict[str, Any]:
    weight_map = read_json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{folder / INDEX}: there is no weight_map: download it again")
    return weight_map


def _check_index(folder: Path, stored: Mapping[str, tuple[int, StoredTensor]]) -> None:
    if not (folder / INDEX).exists():
        return
    missing = [f"{name} ({file})" for name, file in _weight_map(folder).items() if name not in stored]
    if missing:
        raise CheckpointError(
            f"{folder}: {len(missing)} tensors of the index are in no file: {', '.join(missing[:3])}: download it again"
        )


@dataclass(frozen=True, eq=False)
class Fp8Content:
    """A matrix or a stack of them; `expand` where the rows do not consist of whole blocks."""

    matrices: tuple[Fp8Matrix, ...]
    expand: bool

    @property
    def row_bytes(self) -> int:
        columns = self.matrices[0].weights_RC.shape[1]
        return experts.row_bytes(experts.FORMATS["F32" if self.expand else "FP8_E4M3"], columns)

    def rows(self, matrix: int, first: int, last: int) -> NDArray[np.uint8]:
        found = self.matrices[matrix]
        return found.expanded(first, last) if self.expand else found.blocks(first, last)

    def release(self, matrix: int, first: int, last: int) -> None:
        Mapped([self.matrices[matrix].weights_RC]).release(0, first, last)


class _Tensors:
    """Gives the stored tensors their names in GGUF and puts stacks together."""

    def __init__(
        self, config: dict[str, Any], kind: HfArchitecture, stored: Mapping[str, tuple[int, StoredTensor]]
    ) -> None:
        self._config, self._kind, self._stored = config, kind, stored

    def all(self) -> dict[str, Tensor]:
        """In the order of blocks, which is that of loading."""
        groups: dict[str, dict[int, str]] = {}
        for name in self._stored:
            if not name.endswith(SCALES) and not IGNORED.fullmatch(name):
                ours, expert = self._named(name)
                groups.setdefault(ours, {})[-1 if expert is None else expert] = name
        tensors: dict[str, Tensor] = {}
        for ours, by_expert in sorted(groups.items(), key=lambda item: _order(item[0])):
            if sorted(by_expert) not in ([-1], list(range(len(by_expert)))):
                absent = next(number for number in range(len(by_expert)) if number not in by_expert)
                raise MissingTensors(f"tensor {ours} lacks expert {absent}: the folder is incomplete")
            tensor = self._tensor(ours, [by_expert[expert] for expert in sorted(by_expert)], -1 not in by_expert)
            tensors |= {part.name: part for part in self._parts(tensor)}
        return tensors

    def _parts(self, tensor: Tensor) -> list[Tensor]:
        """What GGUF has in place of a tensor, mostly itself."""
        if not tensor.name.endswith(JOINED):
            return [tensor]
        if isinstance(tensor.content, Fp8Content):
            expanded = replace(tensor.content, expand=True)
            tensor = replace(tensor, content=expanded, ggml_type=experts.FORMATS["F32"].ggml_type)
        return split(tensor, *(whole_number(self._config, key) for key in ("num_attention_heads", "qk_nope_head_dim")))

    def _named(self, name: str) -> tuple[str, int | None]:
        """The name in GGUF and the number of the expert; a name that is not known stays what it is."""
        match = BLOCK.fullmatch(name)
        if match is None:
            return self._kind.outside.get(name, name), None
        block, rest = match.groups()
        expert = EXPERT.fullmatch(rest)
        if expert:
            return f"blk.{block}.ffn_{expert[2]}_exps.weight", int(expert[1])
        names = {**self._kind.block, **(self._kind.mtp if int(block) >= self._config["num_hidden_layers"] else {})}
        return (f"blk.{block}.{names[rest]}" if rest in names else name), None

    def _tensor(self, ours: str, names: list[str], is_stack: bool) -> Tensor:
        number, first = self._stored[names[0]]
        for name in names:
            other = self._stored[name][1]
            if (other.dtype, other.shape) != (first.dtype, first.shape):
                raise CheckpointError(
                    f"tensor {name} is {other.dtype} {other.shape}, {names[0]} is {first.dtype} {first.shape}: "
                    "the experts of a layer must be alike"
                )
        if first.dtype not in FLOATS:
            raise UnsupportedModel(
                f"tensor {names[0]} has elements of type {first.dtype}; supported are {', '.join(FLOATS)}"
            )
        if 0 in first.shape or not first.shape or (is_stack and len(first.shape) != 2):
            raise CheckpointError(f"tensor {names[0]} has shape {first.shape}: the folder is damaged")
        fmt, content = FLOATS[first.dtype], self._content(names, first)
        if isinstance(content, Fp8Content) and content.expand:
            fmt = "F32"
        shape = (len(names), *first.shape) if is_stack else first.shape
        return Tensor(ours, experts.FORMATS[fmt].ggml_type, shape, content, number)

    def _content(self, names: list[str], first: StoredTensor) -> Content:
        if first.dtype == "F8_E4M3":
            matrices = tuple(self._fp8(name) for name in names)
            return Fp8Content(matrices, not all(matrix.has_whole_blocks for matrix in matrices))
        num_rows = first.shape[-2] if len(first.shape) > 1 else 1
        views = [self._stored[name][1].data.reshape(num_rows, -1) for name in names]
        return Mapped(views if len(views) > 1 else views[0][None])

    def _fp8(self, name: str) -> Fp8Matrix:
        weights = self._stored[name][1]
        if len(weights.shape) != 2:
            raise CheckpointError(f"tensor {name} is F8_E4M3 of shape {weights.shape}: only matrices have scales")
        found = [name.removesuffix(".weight") + suffix for suffix in SCALES]
        found = [scale_name for scale_name in found if scale_name in self._stored]
        if not found:
            raise MissingTensors(f"tensor {name} is F8_E4M3, but there is no {name}_scale_inv and no {name}_scale")
        scales = _float32(found[0], self._stored[found[0]][1])
        return Fp8Matrix(name, weights.data.reshape(weights.shape), *self._blocks(found[0], scales, weights.shape))

    def _blocks(
        self, name: str, scales: NDArray[np.float32], shape: tuple[int, ...]
    ) -> tuple[NDArray[np.float32], int, int]:
        """The scales as a matrix, and the rows and columns of weights that one of them is for."""
        rows, columns = shape
        if scales.size == 1:
            return scales.reshape(1, 1), rows, columns
        if scales.shape in ((rows,), (rows, 1)):
            return scales.reshape(rows, 1), 1, columns
        block_rows, block_columns = self._block_size()
        expected = (-(-rows // block_rows), -(-columns // block_columns))
        if scales.shape != expected:
            raise CheckpointError(
                f"tensor {name} has shape {scales.shape}; weights {shape} ask for {expected}, or one scale a row"
            )
        return scales, block_rows, block_columns

    def _block_size(self) -> tuple[int, int]:
        """Rows and columns of weights that share a scale, as config.json says."""
        size = (self._config.get("quantization_config") or {}).get("weight_block_size") or [128, 128]
        if not (isinstance(size, list) and len(size) == 2 and all(type(n) is int and n > 0 for n in size)):
            raise CheckpointError(f"config.json: weight_block_size is {size!r:.60}, must be two numbers of 1 or more")
        return size[0], size[1]


def _float32(name: str, stored: StoredTensor) -> NDArray[np.float32]:
    """A small tensor of floats."""
    if stored.dtype == "F32":
        return stored.data.view("<f4").reshape(stored.shape)
    if stored.dtype == "BF16":
        return (stored.data.view("<u2").astype(np.uint32) << 16).view(np.float32).reshape(stored.shape)
    if stored.dtype == "F16":
        return stored.data.view("<f2").astype(np.float32).reshape(stored.shape)
    raise UnsupportedModel(f"tensor {name} has elements of type {stored.dtype}; scales are F32, BF16 or F16")


def _order(name: str) -> tuple[int, int]:
    """Blocks one after the other, what stands outside them first."""
    block = block_of(name)
    return (0, 0) if block is None else (1, block)
