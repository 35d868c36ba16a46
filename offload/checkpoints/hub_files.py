"""Which files of a repository make up the model that is asked for, by their names and sizes alone."""

import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from ..errors import HubError
from .gguf import PART_NAME

DEFAULT_QUANT = "Q4_K_M"
NO_MODELS = re.compile(r"(^|[-._/])(mmproj|imatrix)([-._]|$)", re.IGNORECASE)  # GGUF files of other kinds
QUANT = re.compile(r"(UD-)?(I?Q\d\w*|TQ\d\w*|MXFP4\w*|BF16|F16|F32)", re.IGNORECASE)  # as publishers name them
FOLDER_FILE = re.compile(r"[^/]+\.(json|jinja|safetensors)")  # of a model in the repository's own folder


@dataclass(frozen=True)
class GgufModel:
    """One quantization of a model.

    Attributes:
        name: path in the repository, without the number of a part and without ".gguf".
        files: paths of all parts, in order.
        num_bytes: of all parts.
    """

    name: str
    files: tuple[str, ...]
    num_bytes: int

    def matches(self, quant: str) -> bool:
        """Whether `quant` stands in the name, whole: Q4_K is no part of Q4_K_M."""
        return re.search(rf"(?<![^-_./]){re.escape(quant)}(?![^-./])", self.name, re.IGNORECASE) is not None

    def __str__(self) -> str:
        found = [match[0] for match in QUANT.finditer(self.name) if self.matches(match[0])]
        return f"{found[-1] if found else self.name} ({gigabytes(self.num_bytes)})"


def model_files(repository: str, sizes: Mapping[str, int], quant: str | None) -> tuple[str, ...]:
    """The files to fetch: a GGUF model's parts in order, or config.json and what belongs to it.

    Args:
        repository: for messages.
        sizes: bytes of each file, by path.
        quant: as it stands in files' names; without one `DEFAULT_QUANT`, or else the first there is, with a warning.

    Raises:
        HubError: there is no model, or not that quantization.
    """
    models = gguf_models(sizes)
    if models:
        return _chosen(repository, models, quant).files
    if "config.json" not in sizes or not any(name.endswith(".safetensors") for name in sizes):
        _fail(repository, "has neither whole GGUF models nor safetensors with a config.json: name another repository")
    if quant:
        _fail(repository, f"has safetensors, no GGUF files: leave :{quant} out, and quantize with --quantize q4_k")
    return tuple(sorted(name for name in sizes if FOLDER_FILE.fullmatch(name)))


def gguf_models(sizes: Mapping[str, int]) -> list[GgufModel]:
    """All whole models, by name."""
    files: dict[tuple[str, int], list[str]] = {}
    for path in sorted(sizes):
        part = PART_NAME.fullmatch(path)
        if path.endswith(".gguf") and not NO_MODELS.search(path):
            key = (part["stem"], int(part["count"])) if part else (path.removesuffix(".gguf"), 1)
            files.setdefault(key, []).append(path)
    return [
        GgufModel(name, tuple(paths), sum(sizes[path] for path in paths))
        for (name, num_parts), paths in files.items()
        if len(paths) == num_parts
    ]


def _chosen(repository: str, models: Sequence[GgufModel], quant: str | None) -> GgufModel:
    found = _shortest(models, quant or DEFAULT_QUANT)
    if found:
        return found
    if quant:
        _fail(repository, f"has no {quant}; there are {', '.join(map(str, models))}")
    warnings.warn(
        f"{repository} has no {DEFAULT_QUANT}; taken is {models[0]} of {', '.join(map(str, models))}", stacklevel=2
    )
    return models[0]


def _shortest(models: Collection[GgufModel], quant: str) -> GgufModel | None:
    """Of several that match, such as IQ4_XS and UD-IQ4_XS, the one with nothing added."""
    return min((model for model in models if model.matches(quant)), key=lambda model: len(model.name), default=None)


def gigabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f} GB"


def _fail(repository: str, problem: str) -> NoReturn:
    raise HubError(f"{repository} {problem}")
