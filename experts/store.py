"""The routed experts of one layer."""

from typing import Any

from experts.matrix import Stack


class ExpertLayer:
    """Gate, up and down projections of E experts; a view, nothing is copied.

    Args:
        gate: E matrices of F rows and D columns.
        up: E matrices of F rows and D columns.
        down: E matrices of D rows and F columns.

    Raises:
        ValueError: The shapes do not fit each other.
    """

    def __init__(self, gate: Stack, up: Stack, down: Stack) -> None:
        shapes = [(len(stack), stack.rows, stack.columns) for stack in (gate, up, down)]
        experts, ffn, hidden = shapes[0]
        if shapes != [(experts, ffn, hidden), (experts, ffn, hidden), (experts, hidden, ffn)]:
            raise ValueError(f"gate, up and down must be (E, F, D), (E, F, D), (E, D, F), not {shapes}")
        self.gate, self.up, self.down = gate, up, down
        self.num_experts, self.ffn, self.hidden = experts, ffn, hidden
        self.plans: dict[tuple[int, int], Any] = {}  # of `moe_ffn`, by the number of rows and of experts a row

    @property
    def expert_bytes(self) -> int:
        """Bytes of one expert's three matrices: what a step reads for each distinct expert."""
        return self.gate.matrix_bytes + self.up.matrix_bytes + self.down.matrix_bytes
