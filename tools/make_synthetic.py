"""Writes a GLM file of real dimensions and few layers whose drafts are as good as one asks for.

Neighbouring tokens share as many experts as asked for, too. So engines can be compared on one file, with the same luck.

The experts stand in a part of their own and do not depend on the character: `--experts-from` links those of another
file of the same shape, so that a grid of characters takes their space once.

    python -m tools.make_synthetic OUT.gguf --acceptance 0.9,0.7,0.5 --overlap 0.35
    python -m tools.make_synthetic OTHER.gguf --acceptance 0.3 --overlap 0.05 --experts-from OUT-00002-of-00002.gguf
"""

import argparse
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf import GGUFWriter, quants
from gguf.constants import ExpertGatingFuncType

from offload.checkpoints.gguf_header import Header
from tools.synthetic_blocks import RandomBlocks, fitting, row_bytes
from tools.synthetic_text import Text
from tools.synthetic_tokenizer import add_tokenizer, num_ordinary

SMALL = 0.05  # what a layer adds to a residual stream of size 1
MOST_DRAFTS = 5  # depths at which drafts have a character; later ones are noise


@dataclass(frozen=True)
class Shape:
    hidden: int
    heads: int
    kv_heads: int
    head_size: int
    rotated: int
    qk_norm: bool
    dense_ffn: int
    expert_ffn: int
    experts: int
    used: int
    scale: float
    context: int
    dense: int = 1  # layers
    moe: int = 2
    vocab: int = 32768


PRESETS = {
    "4.7-slice": Shape(5120, 96, 8, 128, 64, True, 12288, 1536, 160, 8, 2.5, 202752),
    "air-slice": Shape(4096, 96, 8, 128, 64, False, 10944, 1408, 128, 8, 1.0, 131072, moe=4),
    "tiny": Shape(512, 8, 2, 64, 32, True, 512, 256, 32, 4, 2.5, 4096, vocab=2048),
}


@dataclass(frozen=True)
class Tensor:
    name: str
    kind: T
    shape: tuple[int, ...]  # slowest dimension first
    make: Callable[[], Iterator[np.ndarray]]  # its rows, in parts

    @property
    def num_bytes(self) -> int:
        return int(np.prod(self.shape[:-1])) * row_bytes(self.kind, self.shape[-1])


class Model:
    """All tensors, made as they are asked for."""

    def __init__(self, shape: Shape, text: Text, experts: T, rest: T, seed: int):
        self.shape, self.text, self.experts_kind, self.rest_kind = shape, text, experts, rest
        self._random = RandomBlocks(seed)

    def trunk_and_mtp(self) -> Iterator[Tensor]:
        """Everything but the experts."""
        s, text = self.shape, self.text
        yield self._made("token_embd.weight", s.vocab, s.hidden, text.embedding)
        yield self._made("output.weight", s.vocab, s.hidden, text.head)
        yield self._ones("output_norm.weight", s.hidden)
        for block in range(self.num_blocks):
            yield from self._block(f"blk.{block}.", block)
        prefix = f"blk.{self.num_blocks - 1}.nextn."
        yield self._whole(prefix + "eh_proj.weight", T.Q8_0, lambda: text.projection(), (s.hidden, 2 * s.hidden))
        for name in ("enorm", "hnorm", "shared_head_norm"):
            yield self._ones(f"{prefix}{name}.weight", s.hidden)

    def experts(self) -> Iterator[Tensor]:
        s = self.shape
        for block in range(s.dense, self.num_blocks):
            for name, rows, columns, size in self._ffn(s.expert_ffn):
                kind = fitting(self.experts_kind, columns)
                yield self._random_tensor(f"blk.{block}.ffn_{name}_exps.weight", kind, (s.experts, rows, columns), size)

    @property
    def num_blocks(self) -> int:
        return self.shape.dense + self.shape.moe + 1

    def _block(self, prefix: str, block: int) -> Iterator[Tensor]:
        s = self.shape
        q, kv = s.heads * s.head_size, s.kv_heads * s.head_size
        for name in ("attn_norm", "post_attention_norm"):
            yield self._ones(f"{prefix}{name}.weight", s.hidden)
        for name, rows in (("q", q), ("k", kv), ("v", kv)):
            yield self._rest(f"{prefix}attn_{name}.weight", rows, s.hidden, s.hidden**-0.5)
            yield self._random_tensor(f"{prefix}attn_{name}.bias", T.F32, (rows,), 0.1)
        yield self._rest(prefix + "attn_output.weight", s.hidden, q, SMALL * q**-0.5)
        if s.qk_norm:
            for name in ("attn_q_norm", "attn_k_norm"):
                yield self._ones(f"{prefix}{name}.weight", s.head_size)
        if block < s.dense:
            for name, rows, columns, size in self._ffn(s.dense_ffn):
                yield self._rest(f"{prefix}ffn_{name}.weight", rows, columns, size)
            return
        router = self.text.router(block - s.dense)
        yield self._whole(prefix + "ffn_gate_inp.weight", T.F32, lambda: router, router.shape)
        yield self._whole(prefix + "exp_probs_b.bias", T.F32, lambda: np.zeros(s.experts, np.float32), (s.experts,))
        for name, rows, columns, size in self._ffn(s.expert_ffn):
            yield self._rest(f"{prefix}ffn_{name}_shexp.weight", rows, columns, size)

    def _ffn(self, width: int) -> tuple[tuple[str, int, int, float], ...]:
        """Name, rows, columns and standard deviation of gate, up and down."""
        D = self.shape.hidden
        return ("gate", width, D, D**-0.5), ("up", width, D, D**-0.5), ("down", D, width, SMALL * width**-0.5)

    def _rest(self, name: str, rows: int, columns: int, size: float) -> Tensor:
        return self._random_tensor(name, fitting(self.rest_kind, columns), (rows, columns), size)

    def _random_tensor(self, name: str, kind: T, shape: tuple[int, ...], size: float) -> Tensor:
        def make() -> Iterator[np.ndarray]:
            for _ in range(shape[0] if len(shape) == 3 else 1):
                rows = shape[-2] if len(shape) > 1 else 1
                yield self._random.tensor(kind, rows, shape[-1], size)

        return Tensor(name, kind, shape, make)

    def _made(self, name: str, rows: int, columns: int, values: Callable[[np.ndarray], np.ndarray]) -> Tensor:
        """Values computed for rows of token ids, in Q8_0."""

        def make() -> Iterator[np.ndarray]:
            for start in range(0, rows, 2048):
                yield quants.quantize(values(np.arange(start, min(rows, start + 2048))), T.Q8_0)

        return Tensor(name, T.Q8_0, (rows, columns), make)

    def _whole(self, name: str, kind: T, values: Callable[[], np.ndarray], shape: tuple[int, ...]) -> Tensor:
        def make() -> Iterator[np.ndarray]:
            yield values() if kind == T.F32 else quants.quantize(values(), kind)

        return Tensor(name, kind, shape, make)

    def _ones(self, name: str, size: int) -> Tensor:
        return self._whole(name, T.F32, lambda: np.ones(size, np.float32), (size,))


def add_metadata(writer: GGUFWriter, shape: Shape) -> None:
    writer.add_name("synthetic glm4moe")
    writer.add_block_count(shape.dense + shape.moe + 1)
    writer.add_nextn_predict_layers(1)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.hidden)
    writer.add_feed_forward_length(shape.dense_ffn)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_size)
    writer.add_value_length(shape.head_size)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(1e6)
    writer.add_rope_dimension_count(shape.rotated)
    writer.add_expert_count(shape.experts)
    writer.add_expert_used_count(shape.used)
    writer.add_expert_shared_count(1)
    writer.add_expert_feed_forward_length(shape.expert_ffn)
    writer.add_leading_dense_block_count(shape.dense)
    writer.add_expert_gating_func(ExpertGatingFuncType.SIGMOID)
    writer.add_expert_weights_scale(shape.scale)
    writer.add_expert_weights_norm(True)
    writer.add_file_type(7)
    writer.add_quantization_version(2)
    add_tokenizer(writer, shape.vocab)


def write_part(path: Path, number: int, num_tensors: int, tensors: list[Tensor], shape: Shape | None) -> None:
    """One of two parts; the first has the metadata."""
    writer = GGUFWriter(path, "glm4moe")
    if shape:
        add_metadata(writer, shape)
    writer.add_uint16("split.no", number)
    writer.add_uint16("split.count", 2)
    writer.add_int32("split.tensors.count", num_tensors)
    for tensor in tensors:
        is_float = tensor.kind == T.F32
        shape_of = tensor.shape if is_float else quants.quant_shape_to_byte_shape(tensor.shape, tensor.kind)
        dtype = np.dtype(np.float32 if is_float else np.uint8)
        writer.add_tensor_info(tensor.name, shape_of, dtype, tensor.num_bytes, raw_dtype=tensor.kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in tensors:
        parts = list(tensor.make())
        data = parts[0] if len(parts) == 1 else np.concatenate(parts)
        assert data.nbytes == tensor.num_bytes, tensor.name
        writer.write_tensor_data(data)
    writer.close()


def write(model: Model, out: Path, experts_from: Path | None) -> list[Path]:
    """Both parts; returns their paths.

    Raises:
        SystemExit: `experts_from` does not hold the experts of this shape.
    """
    paths = [out.with_name(f"{out.stem}-0000{i}-of-00002.gguf") for i in (1, 2)]
    dense, experts = list(model.trunk_and_mtp()), list(model.experts())
    if experts_from is not None:
        held = [(t.name, t.ggml_type, t.shape) for t in Header(experts_from).tensors]
        if held != [(t.name, t.kind, t.shape) for t in experts]:
            raise SystemExit(f"{experts_from} does not hold the experts of this shape: name the second part of a file")
    write_part(paths[0], 0, len(dense) + len(experts), dense, model.shape)
    if experts_from is None:
        write_part(paths[1], 1, len(dense) + len(experts), experts, None)
    else:
        paths[1].unlink(missing_ok=True)
        os.link(experts_from, paths[1])
    return paths


def acceptance_of(text: str) -> tuple[float, ...]:
    """`0.9,0.7` -> (0.9, 0.7, 0.7, 0.7, 0.7): the last chance holds for the depths behind it."""
    chances = [float(part) for part in text.split(",")]
    if not all(0 <= chance <= 1 for chance in chances) or len(chances) > MOST_DRAFTS:
        raise argparse.ArgumentTypeError(f"{text}: give 1 to {MOST_DRAFTS} chances from 0 to 1")
    return (*chances, *[chances[-1]] * (MOST_DRAFTS - len(chances)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="two parts are written, OUT-00001-of-00002.gguf and -00002-")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="4.7-slice")
    parser.add_argument("--dense", type=int, help="dense layers")
    parser.add_argument("--moe", type=int, help="layers with experts, besides the MTP block")
    parser.add_argument("--vocab", type=int)
    parser.add_argument("--experts", default="Q4_K", help="format of the experts")
    parser.add_argument("--rest", default="Q8_0", help="format of attention, dense and shared layers")
    parser.add_argument(
        "--acceptance", type=acceptance_of, default="0.8", help="chance of each draft if those before it are right"
    )
    parser.add_argument("--overlap", type=float, default=0.35, help="of neighbouring tokens' experts")
    parser.add_argument("--variation", type=float, default=1.0, help="of acceptance from token to token, in log-odds")
    parser.add_argument("--experts-from", type=Path, metavar="PART", help="second part of a file of the same shape")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    given = {name: getattr(options, name) for name in ("dense", "moe", "vocab") if getattr(options, name) is not None}
    shape = replace(PRESETS[options.preset], **given)
    text = Text(
        shape.hidden,
        num_ordinary(shape.vocab),
        shape.experts,
        shape.used,
        shape.moe + 1,
        options.acceptance,
        options.overlap,
        options.variation,
        options.seed,
    )
    model = Model(shape, text, T[options.experts.upper()], T[options.rest.upper()], options.seed)
    paths = write(model, options.out, options.experts_from)
    print(json.dumps({"parts": [str(path) for path in paths], "bytes": sum(p.stat().st_size for p in paths)}))
    print(json.dumps({**asdict(shape), "acceptance": options.acceptance, "overlap": options.overlap}))


if __name__ == "__main__":
    main()
