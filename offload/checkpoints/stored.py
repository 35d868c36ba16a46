"""A checkpoint's tensors as the kernels' matrices: views where the bytes lie in a file, a copy where they are made."""

import math
from dataclasses import replace

import numpy as np

import experts

from ..errors import UnsupportedModel
from .checkpoint import Mapped, Tensor
from .gguf_header import type_name


def format_of(tensor: Tensor) -> experts.Format:
    """The format of a tensor's weights.

    Raises:
        UnsupportedModel: no kernel reads it.
    """
    try:
        return experts.format_of(tensor.ggml_type)
    except experts.UnsupportedFormat as error:
        raise UnsupportedModel(f"tensor {tensor.name} is in format {type_name(tensor.ggml_type)}: {error}") from None


def as_matrix(tensor: Tensor) -> experts.Matrix:
    """All rows of a tensor as one matrix; a vector becomes one row."""
    columns = tensor.shape[-1]
    return experts.Matrix.from_bytes(format_of(tensor), math.prod(tensor.shape[:-1]), columns, tensor.data)


def as_stack(tensor: Tensor) -> experts.Stack:
    """Experts, without a copy where each lies in one piece."""
    fmt, (_, num_rows, columns) = format_of(tensor), tensor.shape
    if isinstance(tensor.content, Mapped) and not isinstance(tensor.content.matrices, np.ndarray):
        views = tensor.content.matrices
        return experts.ScatteredStack(tuple(experts.Matrix(fmt, num_rows, columns, view) for view in views))
    stack = experts.MatrixStack.from_bytes(fmt, tensor.num_matrices, num_rows, columns, tensor.data)
    return replace(stack, interleaved=tensor.interleaved)
