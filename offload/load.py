"""Takes a checkpoint's tensors into a model's weights, and proves that none was missing or left over."""

import math
import warnings
from collections.abc import Callable, Mapping

import numpy as np

import experts

from .arch import expected_tensors
from .backend import Array, Backend, Weight
from .config import ModelConfig
from .errors import CheckpointError, MissingTensors, UnsupportedModel
from .gguf import Checkpoint, Tensor
from .gguf_header import type_name
from .weights import AttentionWeights, BlockWeights, FfnWeights, ModelWeights, MoeWeights, MtpWeights

_Expected = dict[str, tuple[tuple[int, ...], bool]]  # name -> shape, and whether it must be there
Progress = Callable[[int, int], None]  # blocks done, blocks in all


def load_weights(
    checkpoint: Checkpoint, config: ModelConfig, backend: Backend, progress: Progress = lambda done, total: None
) -> ModelWeights:
    """Maps every tensor to its place.

    An MTP block of an unknown kind is left out with a warning; the model then runs without it.

    Raises:
        MissingTensors: tensors that the architecture needs, by name.
        CheckpointError: a wrong shape, or tensors left over, by name.
        UnsupportedModel: a block format that no kernel reads.
    """
    loader = _Loader(checkpoint, config, backend)
    with_mtp = loader.check_names_and_shapes()
    total = config.num_layers + with_mtp
    blocks = []
    for block in range(config.num_layers):
        blocks.append(loader.block(block))
        progress(block + 1, total)
    embedding = loader.matrix("token_embd.weight")
    head = loader.optional_matrix("output.weight") or embedding
    output_norm = loader.vector("output_norm.weight")
    mtp = loader.mtp(config.num_layers, embedding, output_norm, head) if with_mtp else None
    progress(total, total)
    return ModelWeights(embedding, tuple(blocks), output_norm, head, mtp)


class _Loader:
    def __init__(self, checkpoint: Checkpoint, config: ModelConfig, backend: Backend):
        self.tensors = dict(checkpoint.tensors)
        self.config, self.backend = config, backend

    def check_names_and_shapes(self) -> bool:
        """Compares names and shapes with the architecture's table; says whether the MTP block can be used."""
        config = self.config
        mtp_blocks = tuple(f"blk.{config.num_layers + i}." for i in range(config.num_mtp_layers))
        expected: dict[bool, _Expected] = {False: {}, True: {}}
        for name, shape, required in expected_tensors(config):
            expected[name.startswith(mtp_blocks)][name] = (shape, required)
        mtp_tensors = {name: t for name, t in self.tensors.items() if name.startswith(mtp_blocks)}
        trunk_tensors = {name: t for name, t in self.tensors.items() if name not in mtp_tensors}
        _check_trunk(trunk_tensors, expected[False], config.architecture)
        if not mtp_blocks:
            return False
        problem = _mtp_problem(mtp_tensors, expected[True], config.num_mtp_layers)
        if problem:
            warnings.warn(f"the MTP block is left out, there will be no MTP drafts: {problem}", stacklevel=5)
            self.tensors = trunk_tensors
        return not problem

    def block(self, block: int) -> BlockWeights:
        name = f"blk.{block}."
        attention = AttentionWeights(
            norm=self.vector(name + "attn_norm.weight"),
            q=self.matrix(name + "attn_q.weight"),
            k=self.matrix(name + "attn_k.weight"),
            v=self.matrix(name + "attn_v.weight"),
            output=self.matrix(name + "attn_output.weight"),
            q_bias=self.optional_vector(name + "attn_q.bias"),
            k_bias=self.optional_vector(name + "attn_k.bias"),
            v_bias=self.optional_vector(name + "attn_v.bias"),
            q_norm=self.optional_vector(name + "attn_q_norm.weight"),
            k_norm=self.optional_vector(name + "attn_k_norm.weight"),
        )
        ffn = self.ffn(name, "") if block < self.config.num_dense_layers else self.moe(name)
        return BlockWeights(attention, self.vector(name + "post_attention_norm.weight"), ffn)

    def ffn(self, block: str, kind: str) -> FfnWeights:
        return FfnWeights(*(self.matrix(f"{block}ffn_{part}{kind}.weight") for part in ("gate", "up", "down")))

    def moe(self, block: str) -> MoeWeights:
        bias = self.optional_vector(block + "exp_probs_b.bias")
        if bias is None:
            bias = self.backend.upload_vector(np.zeros(self.config.num_experts, np.float32))
        gate, up, down = (self.tensors.pop(f"{block}ffn_{part}_exps.weight") for part in ("gate", "up", "down"))
        return MoeWeights(
            router=self.matrix(block + "ffn_gate_inp.weight"),
            router_bias=bias,
            experts=experts.ExpertLayer(_stack(gate), _stack(up), _stack(down)),
            shared=self.ffn(block, "_shexp") if self.config.num_shared_experts else None,
        )

    def mtp(self, block: int, embedding: Weight, output_norm: Array, head: Weight) -> MtpWeights:
        name = f"blk.{block}."
        head_norm = self.optional_vector(name + "nextn.shared_head_norm.weight")
        mtp = MtpWeights(
            embedding=self.optional_matrix(name + "nextn.embed_tokens.weight") or embedding,
            embedding_norm=self.vector(name + "nextn.enorm.weight"),
            hidden_norm=self.vector(name + "nextn.hnorm.weight"),
            projection=self.matrix(name + "nextn.eh_proj.weight"),
            block=self.block(block),
            head_norm=output_norm if head_norm is None else head_norm,
            head=self.optional_matrix(name + "nextn.shared_head_head.weight") or head,
        )
        assert not self.tensors, f"{_listed(list(self.tensors))} left behind"
        return mtp

    def matrix(self, name: str) -> Weight:
        return self.backend.upload(_matrix(self.tensors.pop(name)))

    def optional_matrix(self, name: str) -> Weight | None:
        return self.matrix(name) if name in self.tensors else None

    def vector(self, name: str) -> Array:
        tensor = self.tensors.pop(name)
        return self.backend.upload_vector(experts.dequantize(_matrix(tensor)).reshape(tensor.shape))

    def optional_vector(self, name: str) -> Array | None:
        return self.vector(name) if name in self.tensors else None


def _check_trunk(tensors: Mapping[str, Tensor], expected: _Expected, architecture: str) -> None:
    missing = [name for name, (_, required) in expected.items() if required and name not in tensors]
    if missing:
        raise MissingTensors(f"{_listed(missing)} missing: the file is incomplete, or not a {architecture} model")
    left_over = [name for name in tensors if name not in expected]
    if left_over:
        raise CheckpointError(f"{_listed(left_over)} not known to {architecture}: nothing here would use them")
    for name, tensor in tensors.items():
        shape = expected[name][0]
        if tensor.shape != shape:
            raise CheckpointError(f"tensor {name} has shape {tensor.shape}, the metadata ask for {shape}")


def _mtp_problem(tensors: Mapping[str, Tensor], expected: _Expected, num_blocks: int) -> str | None:
    """Why the MTP tensors are not the one kind that is known, or None."""
    if num_blocks > 1:
        return f"the file has {num_blocks} of them, one is supported"
    for name, tensor in tensors.items():
        if name not in expected:
            return f"tensor {name} is of an unknown kind"
        if tensor.shape != expected[name][0]:
            return f"tensor {name} has shape {tensor.shape} instead of {expected[name][0]}"
    missing = [name for name, (_, required) in expected.items() if required and name not in tensors]
    return f"{_listed(missing)} missing" if missing else None


def _matrix(tensor: Tensor) -> experts.Matrix:
    """An encoded 2-D view of a tensor (vectors become one row)."""
    columns = tensor.shape[-1]
    return experts.Matrix.from_bytes(_format(tensor), math.prod(tensor.shape[:-1]), columns, tensor.data)


def _stack(tensor: Tensor) -> experts.MatrixStack:
    num_experts, rows, columns = tensor.shape
    return experts.MatrixStack.from_bytes(_format(tensor), num_experts, rows, columns, tensor.data)


def _format(tensor: Tensor) -> experts.Format:
    try:
        return experts.format_of(tensor.ggml_type)
    except experts.UnsupportedFormat as error:
        raise UnsupportedModel(f"tensor {tensor.name} is in format {type_name(tensor.ggml_type)}: {error}") from None


def _listed(names: list[str]) -> str:
    """tensor a is / tensors a, b, c and 7 more are."""
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"tensor {shown} is" if len(names) == 1 else f"tensors {shown} are"
