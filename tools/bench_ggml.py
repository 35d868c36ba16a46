"""The same expert FFN in ggml, from the symbols that the xllamacpp package exports, for comparison.

One graph per number of rows: mul_mat_id for gate and up, swiglu, mul_mat_id for down. The weighted sum of the experts
is left out, to ggml's advantage. Weights are the same bytes as ours, or ggml's own repacked copy of them.
"""

import ctypes
from ctypes import c_bool, c_int, c_int64, c_size_t, c_void_p
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experts import ExpertLayer, MatrixStack

F32, I32 = 0, 26  # numbers of types
REPACKED = "_Z35ggml_backend_cpu_repack_buffer_typev"  # a C++ function without arguments
_CONTEXT_BYTES = 4 << 20


class _InitParams(ctypes.Structure):
    _fields_ = (("mem_size", c_size_t), ("mem_buffer", c_void_p), ("no_alloc", c_bool))


_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "ggml_init": (c_void_p, [_InitParams]),
    "ggml_free": (None, [c_void_p]),
    "ggml_new_tensor": (c_void_p, [c_void_p, c_int, c_int, ctypes.POINTER(c_int64)]),
    "ggml_mul_mat_id": (c_void_p, [c_void_p] * 4),
    "ggml_swiglu_split": (c_void_p, [c_void_p] * 3),
    "ggml_new_graph": (c_void_p, [c_void_p]),
    "ggml_build_forward_expand": (None, [c_void_p] * 2),
    "ggml_get_data": (c_void_p, [c_void_p]),
    "ggml_backend_cpu_init": (c_void_p, []),
    "ggml_backend_cpu_set_n_threads": (None, [c_void_p, c_int]),
    "ggml_backend_cpu_buffer_from_ptr": (c_void_p, [c_void_p, c_size_t]),
    "ggml_backend_tensor_alloc": (c_int, [c_void_p] * 3),
    "ggml_backend_alloc_ctx_tensors": (c_void_p, [c_void_p] * 2),
    "ggml_backend_graph_compute": (c_int, [c_void_p] * 2),
    "ggml_backend_buffer_free": (None, [c_void_p]),
    "ggml_backend_alloc_ctx_tensors_from_buft": (c_void_p, [c_void_p] * 2),
    "ggml_backend_tensor_set": (None, [c_void_p, c_void_p, c_size_t, c_size_t]),
    "ggml_backend_supports_op": (c_bool, [c_void_p] * 2),
    REPACKED: (c_void_p, []),
}


def available() -> bool:
    """Whether the xllamacpp package is installed."""
    return find_spec("xllamacpp") is not None


class Ggml:
    """The library, and a CPU backend with a number of threads."""

    def __init__(self, threads: int) -> None:
        self._library = ctypes.CDLL(str(import_module("xllamacpp.xllamacpp").__file__))
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(self._library, name)
            function.restype, function.argtypes = result, arguments
        self.backend = self.call("ggml_backend_cpu_init")
        self.call("ggml_backend_cpu_set_n_threads", self.backend, threads)

    def call(self, name: str, *arguments: Any) -> Any:
        return getattr(self._library, name)(*arguments)

    @property
    def level(self) -> str:
        """What it was compiled for."""
        names = ("avx512_vnni", "avx512", "avx2", "neon")
        return next((name for name in names if getattr(self._library, f"ggml_cpu_has_{name}")()), "plain")

    def context(self) -> Any:
        """A context for descriptions of tensors; their data lie elsewhere."""
        return self.call("ggml_init", _InitParams(_CONTEXT_BYTES, None, True))

    def tensor(self, context: Any, kind: int, *sizes: int) -> Any:
        """A tensor, fastest dimension first."""
        return self.call("ggml_new_tensor", context, kind, len(sizes), (c_int64 * len(sizes))(*sizes))


class GgmlLayer:
    """The experts of one layer as ggml tensors: views of our bytes, or copies repacked as ggml likes them best.

    Attributes:
        runs: Whether ggml can repack this format; always, without repacking.
    """

    def __init__(self, ggml: Ggml, layer: ExpertLayer, repack: bool) -> None:
        self.ggml, self.layer, self._context = ggml, layer, ggml.context()
        stacks = [stack for stack in (layer.gate, layer.up, layer.down) if isinstance(stack, MatrixStack)]
        self.tensors = [
            ggml.tensor(self._context, s.format.ggml_type, s.columns, s.rows, layer.num_experts) for s in stacks
        ]
        if repack:
            kind = ggml.call(REPACKED)
            self._buffers = [ggml.call("ggml_backend_alloc_ctx_tensors_from_buft", self._context, kind)]
        else:
            self._buffers = [ggml.call("ggml_backend_cpu_buffer_from_ptr", s.address, s.data.nbytes) for s in stacks]
            for stack, tensor, buffer in zip(stacks, self.tensors, self._buffers, strict=True):
                ggml.call("ggml_backend_tensor_alloc", buffer, tensor, stack.address)
        self.runs = self._supported()
        if repack and self.runs:
            for stack, tensor in zip(stacks, self.tensors, strict=True):
                ggml.call("ggml_backend_tensor_set", tensor, stack.address, 0, stack.data.nbytes)

    def _supported(self) -> bool:
        trial = self.ggml.context()
        x, ids = self.ggml.tensor(trial, F32, self.layer.hidden, 1, 1), self.ggml.tensor(trial, I32, 1, 1)
        product = self.ggml.call("ggml_mul_mat_id", trial, self.tensors[0], x, ids)
        supported = bool(self.ggml.call("ggml_backend_supports_op", self.ggml.backend, product))
        self.ggml.call("ggml_free", trial)
        return supported

    def free(self) -> None:
        for buffer in self._buffers:
            self.ggml.call("ggml_backend_buffer_free", buffer)
        self.ggml.call("ggml_free", self._context)


class GgmlStep:
    """The expert FFN for a number of rows."""

    def __init__(self, layer: GgmlLayer, rows: int, top_k: int) -> None:
        ggml, D = layer.ggml, layer.layer.hidden
        gate, up, down = layer.tensors
        self._ggml, self._context, self._shape = ggml, ggml.context(), (rows, top_k, D)
        x = ggml.tensor(self._context, F32, D, 1, rows)
        ids = ggml.tensor(self._context, I32, top_k, rows)
        gated, upped = (ggml.call("ggml_mul_mat_id", self._context, w, x, ids) for w in (gate, up))
        hidden = ggml.call("ggml_swiglu_split", self._context, gated, upped)
        out = ggml.call("ggml_mul_mat_id", self._context, down, hidden, ids)
        self._graph = ggml.call("ggml_new_graph", self._context)
        ggml.call("ggml_build_forward_expand", self._graph, out)
        self._buffer = ggml.call("ggml_backend_alloc_ctx_tensors", self._context, ggml.backend)
        self._x, self._ids, self._out = (ggml.call("ggml_get_data", t) for t in (x, ids, out))

    def run(self, x_TD: NDArray[np.float32], expert_ids_TK: NDArray[np.int32]) -> NDArray[np.float32]:
        """The results of each row's experts, float32 (T, K, D), before they are weighted; valid until the next run."""
        ctypes.memmove(self._x, x_TD.ctypes.data, x_TD.nbytes)
        ctypes.memmove(self._ids, expert_ids_TK.ctypes.data, expert_ids_TK.nbytes)
        status = self._ggml.call("ggml_backend_graph_compute", self._ggml.backend, self._graph)
        assert status == 0, f"ggml returned {status}"
        return np.ctypeslib.as_array(ctypes.cast(self._out, ctypes.POINTER(ctypes.c_float)), self._shape)

    def free(self) -> None:
        self._ggml.call("ggml_backend_buffer_free", self._buffer)
        self._ggml.call("ggml_free", self._context)
