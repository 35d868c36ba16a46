"""What the float formats share: 16 weights are one vector of float32, the last vector of a row padded with zeros."""

from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from experts.build import INLINE
from experts.float_lanes import fma, total_f32
from experts.memory import widened_halves
from experts.vec import F32X16, I16X16, INT64, Vec, broadcast, constant, declared, load_f32x16, pointer

TILE_ROWS = (1, 6, 6, 4, 3, 3)


def _cut_loader(vec: Vec) -> Any:
    name = f"llvm.masked.load.v16{'f32' if vec.kind == 'f32' else vec.kind}.p0"
    bits = ir.VectorType(ir.IntType(1), 16)

    @intrinsic
    def load(typingctx: Any, address: Any, lanes: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            source = pointer(builder, args[0], vec.llvm)
            present = builder.icmp_signed(
                "<", ir.Constant(ir.VectorType(INT64, 16), list(range(16))), broadcast(builder, args[1], 16)
            )
            align = ir.IntType(32)
            function = declared(builder, name, vec.llvm, [source.type, align, bits, vec.llvm])
            return builder.call(function, [source, align(1), present, constant(vec, [0] * 16)])

        return vec(types.int64, types.int64), codegen

    return load


load_some_f32x16 = _cut_loader(F32X16)  # (address, lanes): lanes beyond are zero, and their memory is not touched
load_some_i16x16 = _cut_loader(I16X16)


@intrinsic
def halves_to_f32(typingctx: Any, bits: Any) -> Any:
    """16 float16 as float32."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return widened_halves(builder, args[0])

    return F32X16(I16X16), codegen


@njit(**INLINE)
def apply(block: Any, row: int, total: Any) -> Any:
    return fma(block, load_f32x16(row), total)


@njit(**INLINE)
def total(totals: Any, t: int) -> Any:
    """The 16 chains of row t, added by halving."""
    return total_f32(totals[t])
