"""What a text did in a model, with all that would have been drafted at each of its tokens: enough to replay any policy.

Shapes: N tokens, M drafts, L layers with experts, K experts per row.
"""

from dataclasses import dataclass, fields

import numpy as np

VERSION = 1


@dataclass(frozen=True)
class Trace:
    """Row n is the token n at position n; drafts from row n guess tokens n + 1, n + 2, ..."""

    num_experts: int
    token_ids_N: np.ndarray  # int32
    expert_ids_NLK: np.ndarray  # int16, of the text's own rows
    draft_ids_NM: np.ndarray  # int32
    draft_p_NM: np.ndarray  # float32, the drafter's confidence
    draft_expert_ids_NMLK: np.ndarray  # int16, of the rows that verify the drafts
    mtp_expert_ids_NMK: np.ndarray  # int16, of the passes that made them; M may be 0 here

    def __post_init__(self) -> None:
        N, L, K = self.expert_ids_NLK.shape
        M = self.draft_ids_NM.shape[1]
        shapes = [(N,), (N, M), (N, M), (N, M, L, K)]
        found = [self.token_ids_N, self.draft_ids_NM, self.draft_p_NM, self.draft_expert_ids_NMLK]
        if [a.shape for a in found] != shapes or self.mtp_expert_ids_NMK.shape[0] != N:
            raise ValueError(f"a trace of {N} tokens, {M} drafts, {L} layers has arrays {[a.shape for a in found]}")

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids_N)

    @property
    def num_drafts(self) -> int:
        return int(self.draft_ids_NM.shape[1])

    def num_right(self) -> np.ndarray:
        """Leading drafts that are right at each row, int64 (N,); beyond the end of the text nothing is right."""
        N, M = self.draft_ids_NM.shape
        padded = np.concatenate([self.token_ids_N, np.full(M + 1, -1, np.int32)])
        truth_NM = np.stack([padded[1 + j : 1 + j + N] for j in range(M)], axis=1)
        right_N: np.ndarray = np.cumprod(self.draft_ids_NM == truth_NM, axis=1).sum(axis=1)
        return right_N

    def as_arrays(self) -> dict[str, np.ndarray]:
        """What a file holds; experts in single bytes where they fit."""
        kind = np.uint8 if self.num_experts <= 256 else np.int16
        arrays = {"version": np.array(VERSION), "num_experts": np.array(self.num_experts)}
        for field in fields(self)[1:]:
            values = getattr(self, field.name)
            arrays[field.name] = values.astype(kind) if "expert" in field.name else values
        return arrays

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> "Trace":
        """Raises ValueError for another version or a missing array."""
        version = int(arrays["version"]) if "version" in arrays else None
        if version != VERSION:
            raise ValueError(f"the trace has version {version}, this program reads {VERSION}: record it again")
        missing = {field.name for field in fields(cls)} - set(arrays)
        if missing:
            raise ValueError(f"the trace lacks {', '.join(sorted(missing))}")
        values = {f.name: arrays[f.name] for f in fields(cls)[1:]}
        values = {name: v.astype(np.int16) if "expert" in name else v for name, v in values.items()}
        return cls(num_experts=int(arrays["num_experts"]), **values)
