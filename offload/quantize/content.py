"""Tensors in another format, made piece by piece when they are asked for."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

import experts

from ..checkpoints.checkpoint import Tensor
from ..checkpoints.stored import format_of
from ..errors import CheckpointError
from .encode import quantize


@dataclass(frozen=True, eq=False)
class Reencoded:
    """The rows of another tensor in another format."""

    source: Tensor
    format: experts.Format

    @property
    def row_bytes(self) -> int:
        return experts.row_bytes(self.format, self.source.shape[-1])

    def rows(self, matrix: int, first: int, last: int) -> NDArray[np.uint8]:
        columns = self.source.shape[-1]
        stored = np.ascontiguousarray(self.source.content.rows(matrix, first, last))
        values = experts.dequantize(experts.Matrix(format_of(self.source), last - first, columns, stored))
        try:
            return quantize(values, self.format.name)
        except ValueError as error:
            raise CheckpointError(f"tensor {self.source.name}: {error}: the file is damaged") from None

    def release(self, matrix: int, first: int, last: int) -> None:
        self.source.content.release(matrix, first, last)


def reencoded(tensor: Tensor, name: str) -> Tensor:
    """The tensor in the format of this name; itself if it is in that one."""
    fmt = experts.FORMATS[name]
    if tensor.ggml_type == fmt.ggml_type:
        return tensor
    return replace(tensor, ggml_type=fmt.ggml_type, content=Reencoded(tensor, fmt))


def with_formats(tensors: Mapping[str, Tensor], formats: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors, those that `formats` names in other ones."""
    return {name: reencoded(t, formats[name]) if name in formats else t for name, t in tensors.items()}
