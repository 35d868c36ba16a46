"""A decoder block for a number of rows on the CPU as two jobs, between which the rows may become fewer."""

from experts.attention import KeysValues
from experts.plans.kept import Kept
from experts.plans.plan import Plan
from experts.plans.workspace import Workspace
from experts.threads.team import Job

from ..cuts import taken
from ..transformer.layers import AnyAttention, Layers
from ..transformer.weights import BlockWeights
from .block_phases import BlockPhases, Kind, RowMemory


class BlockPlan(Kept):
    """Jobs over the arrays of a `RowMemory`.

    `attend` takes the residual stream and where the rows stand to the stream behind attention, to its norm, and to the
    experts chosen; `feed` takes these to the residual stream behind the block.

    Args:
        workspace: its memory may be used by others between steps, but not between the two jobs.
    """

    def __init__(
        self,
        layers: Layers,
        weights: BlockWeights | AnyAttention,
        cached: KeysValues,
        kind: Kind,
        workspace: Workspace,
    ) -> None:
        super().__init__(workspace)
        self.memory = RowMemory(workspace, kind.num_rows, layers.config.hidden_size)
        self.phases = BlockPhases(layers, weights, cached, kind, self.memory)
        attend, feed = Plan(workspace, keep=True), Plan(workspace, keep=True)
        self.phases.attend(attend)
        if kind.reads:
            self.phases.feed(feed)
        self._plans = attend, feed
        self.attend = Job(attend.phases, attend.work_bytes)
        self.feed = Job(feed.phases, feed.work_bytes) if kind.reads else None

    @property
    def has_experts(self) -> bool:
        return self.phases.has_experts

    def take(self, other: "BlockPlan", kept: list[slice]) -> None:
        """Goes on with these rows of another plan, which has attended."""
        for name in ("attended_TD", "normed_TD"):
            getattr(self.memory, name)[:] = taken(getattr(other.memory, name), kept)
        for name in ("expert_ids_TK", "expert_weights_TK"):
            getattr(self.phases, name)[:] = taken(getattr(other.phases, name), kept)
