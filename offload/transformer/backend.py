"""What the model needs of a device: the one interface between it and its arithmetic.

Arrays, weights and caches are the backend's own kind (numpy for the CPU); the model only passes them on, slices rows
and adds. Every operation is row-invariant: a row's result never depends, to the bit, on the other rows of the call.

Shapes: T rows, D hidden, H query heads, G key-value heads, C head size, E experts, K experts per row,
N outputs, S positions, V vocabulary.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np

from experts import Matrix

from ..cuts import Cut, take_all
from ..ledger import Ledger
from ..sampling import DraftStart
from .config import Routing
from .rows import Rows

Array = Any
Weight = Any
Experts = Any
Sent = Any  # rows and their routing on their way to the host, or there
Work = Callable[..., tuple[Any, ...]]  # of rows and arrays, on the device
Name = tuple[Any, ...]  # of such work, its kind first


class Cache(Protocol):
    """Keys and values of a number of layers and slots."""

    @property
    def num_positions(self) -> int: ...

    @property
    def bytes_per_token(self) -> int:
        """Bytes that one position takes over all layers."""
        ...

    def write(self, layer: int, rows: Any, k_TGC: Array, v_TGC: Array) -> None:
        """Stores the rows' keys and values.

        Raises:
            ContextFull: a position lies outside the cache; nothing is written then.
        """
        ...

    def copy_slot(self, source: int, target: int, num_positions: int) -> None:
        """Copies the first positions of a slot to another, as they stand; what lies behind them there is undefined."""
        ...


class LatentCache(Protocol):
    """Rows of compressed keys and values of a number of layers and slots."""

    @property
    def num_positions(self) -> int: ...

    @property
    def bytes_per_token(self) -> int:
        """Bytes that one position takes over all layers."""
        ...

    def write(self, layer: int, rows: Any, x_TC: Array) -> None:
        """Stores the rows.

        Raises:
            ContextFull: a position lies outside the cache; nothing is written then.
        """
        ...

    def copy_slot(self, source: int, target: int, num_positions: int) -> None:
        """Copies the first positions of a slot to another, as they stand; what lies behind them there is undefined."""
        ...


class Routed(Protocol):
    """Routed experts of the host at work on the rows of one layer."""

    @property
    def expert_ids_TK(self) -> np.ndarray:
        """int32; from `wait` on."""
        ...

    @property
    def kept(self) -> list[slice] | None:
        """From `wait` on: which ranges of the rows were computed, None for all."""
        ...

    def wait(self, cut: Cut = take_all) -> Any:
        """Their weighted sums (T, D), of the rows that `cut` keeps, as `Backend.receive` takes them."""
        ...


class DraftSampler(Protocol):
    """Draws the drafts of several sequences where the logits are, and remembers them there."""

    def draw(self, chosen: Sequence[int], logits_TV: Array) -> Array:
        """Next draft tokens, int64 (T,), of these T of the sequences."""
        ...

    def read_back(self) -> list[tuple[list[int], list[float]]]:
        """Token ids drawn so far for each sequence, and confidence in them; once a step where that is not free."""
        ...


class Backend(Protocol):
    """Operations of a device. Inputs and outputs are float32 unless said otherwise."""

    name: str
    ledger: Ledger  # what has crossed between the device and the host
    reads_back_freely: bool  # what is computed can be looked at on the host at no cost

    @property
    def emulated_s(self) -> float:
        """Seconds that the machine which is emulated would have worked so far; 0 for a real one."""
        ...

    def upload(self, name: str, matrix: Matrix) -> Weight:
        """Takes the encoded matrix of this name to the device; it stays encoded."""
        ...

    def upload_heads(self, name: str, stack: Any) -> Weight:
        """Takes a matrix for each head to the device: `experts.MatrixStack`, on the CPU any `experts.Stack`."""
        ...

    def upload_experts(self, name: str, gate: Any, up: Any, down: Any) -> Experts:
        """Takes the routed experts of a layer to the device: `experts.MatrixStack`, on the CPU any `experts.Stack`."""
        ...

    def upload_vector(self, name: str, values: np.ndarray) -> Array:
        """Takes float32 values (norms, biases, tables) to the device."""
        ...

    def new_cache(self, name: str, shape_LNGSC: tuple[int, ...], kind: str) -> Cache:
        """Zeros for layers, slots, key-value heads, positions and head size.

        Raises:
            OptionError: a kind of elements that the device does not have.
        """
        ...

    def new_latent_cache(self, name: str, shape_LNSC: tuple[int, ...], kind: str) -> LatentCache:
        """Zeros for layers, slots, positions and row size.

        Raises:
            OptionError: a kind of elements that the device does not have.
        """
        ...

    def rows(self, rows: Rows) -> Any:
        """Takes token ids, slots and positions to the device; `host` of the result are the rows themselves."""
        ...

    def embed(self, table: Weight, token_ids_T: Array) -> Array:
        """Rows of the embedding table (T, D)."""
        ...

    def rms_norm(self, x_TD: Array, weight_D: Array, eps: float) -> Array:
        """x / sqrt(mean(x^2) + eps) * weight (T, D)."""
        ...

    def linear(self, x: Array, weight: Weight, bias: Array | None = None) -> Array:
        """Rows (T, D) times a matrix (N, D), plus a bias (N,): (T, N)."""
        ...

    def linear_heads(self, x_THC: Array, weight: Weight) -> Array:
        """Every head times its own matrix (H, N, C): (T, H, N)."""
        ...

    def swiglu(self, x_TD: Array, gate: Weight, up: Weight, down: Weight) -> Array:
        """down(silu(gate x) * up x): (T, D)."""
        ...

    def head_norm_rope(self, x_THC: Array, rows: Any, table: Array, norm_C: Array | None, eps: float) -> Array:
        """The heads (T, H, C) normed (where there is a norm) and rotated; the input is used up.

        Args:
            table: cosines and sines of every position's angles (S, 2, R / 2); R dimensions of a head are rotated.
        """
        ...

    def attention(self, q_THC: Array, cache: Any, layer: int, rows: Any) -> Array:
        """What each row reads from its slot of the cache (T, H, C)."""
        ...

    def latent_attention(self, q_THC: Array, cache: Any, layer: int, rows: Any) -> Array:
        """The same over rows that are keys and values of all heads (T, H, C)."""
        ...

    def route(self, logits_TE: Array, bias_E: Array, routing: Routing) -> tuple[Array, Array]:
        """Expert ids int32 (T, K) and weights float32 (T, K)."""
        ...

    def mixture(self, x_TD: Array, expert_ids_TK: Array, weights_TK: Array, layer: Experts) -> Array:
        """Weighted sums (T, D) of the chosen experts, which stand where the rows are."""
        ...

    def send(self, x_TD: Array, expert_ids_TK: Array, weights_TK: Array) -> Sent:
        """Sets rows and their routing going to experts of the host."""
        ...

    def start_experts(self, sent: Sent, layer: Experts) -> Routed:
        """Experts of the host for the rows that were sent last; what comes before `wait` runs meanwhile."""
        ...

    def receive(self, sums: Any) -> Array:
        """What the host's experts made of the rows (T, D)."""
        ...

    def replay(self, name: Name, work: Work, rows: Any, *values: Any) -> tuple[Any, ...]:
        """`work(rows, *values)`, which may be recorded and replayed where that is faster.

        Args:
            name: the kind of work, and all but rows and arrays that it depends on. Work reads nothing back; it may
                begin by receiving and end by sending.

        Returns:
            Arrays that hold until work of this kind is run again: take `lasting` ones of those that are to stay.
        """
        ...

    def lasting(self, x: Array) -> Array:
        """An array of `replay` that stays as it is."""
        ...

    def join_features(self, left: Array, right: Array) -> Array:
        """(T, A) and (T, B) -> (T, A + B)."""
        ...

    def join_rows(self, parts: Sequence[Array]) -> Array:
        """(T1, D), (T2, D), ... -> (T1 + T2 + ..., D)."""
        ...

    def draft_sampler(self, starts: Sequence[DraftStart]) -> DraftSampler:
        """For drafts of as many sequences, which begin there."""
        ...

    def to_host(self, role: str, x: Array) -> np.ndarray:
        """Reads an array back; `role` says what for, in the ledger."""
        ...

    def notes(self) -> list[str]:
        """What a person should know about how the weights are kept."""
        ...

    def work(self) -> AbstractContextManager[None]:
        """Around all work: checks, if they are on, and errors of the device in the user's terms.

        Raises:
            DeviceMemoryFull: what the work needs does not fit.
        """
        ...
