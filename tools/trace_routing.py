"""Records what a model's own text did: at every token the experts, the drafts from there and their experts.

Each token is verified with a full draft behind it and then taken alone, so that `tools.simulate_policy` can replay any
policy: what it would have drafted, and what that would have loaded, is all there. One compressed file for each text
(`scheduler.trace` says what is in it).

    python -m tools.trace_routing MODEL OUT_DIR [--tokens 200] [--drafts 5] [--temperature 0]
"""

import argparse
import json
import math
from collections.abc import Sequence as Many
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import offload
from offload.drafting import Draft
from offload.engine import Engine, Outcome
from offload.sequence import Sequence
from offload.transformer.rows import Rows
from offload.transformer.trunk import Verified
from scheduler import FixedLength
from scheduler.trace import Trace

PROMPTS = Path(offload.__file__).parent / "models" / "prompts.json"


class OneByOne(Engine):
    """Verifies whole drafts and keeps one token of each step."""

    def _accept(
        self, sequences: Many[Sequence], drafts: Many[Draft], parts: Many[Rows], verified: Verified
    ) -> list[Outcome]:
        return [replace(o, draws=o.draws[:1]) for o in super()._accept(sequences, drafts, parts, verified)]


def record(
    model: offload.LanguageModel, prompt: str | Many[int], tokens: int, drafts: int, temperature: float, seed: int
) -> Trace:
    """The trace of one text of `tokens` generated tokens (fewer if the context ends), the prompt not included.

    No token ends it.
    """
    model.logits([0])  # what another run left in the caches is not to be used
    room = tokens + drafts + 2
    never_end = dict.fromkeys(model.tokenizer.end_of_generation, -math.inf)
    sampling: dict[str, Any] = {"temperature": temperature, "seed": seed, "logit_bias": never_end}
    generation = model.generate(prompt, max_tokens=room, draft=drafts, drafter="mtp", **sampling)
    sequence = generation._sequence
    engine = OneByOne(model.trunk, generation._engine.drafter, FixedLength(drafts), generation._engine.chunk_size)
    while len(sequence.token_ids) == sequence.num_prompt:
        engine.step([sequence])
    token_ids: list[int] = []
    own, ids, p, drafted, passes = [], [], [], [], []
    while len(token_ids) < tokens:
        token_ids.append(sequence.token_ids[-1])
        step = engine.step([sequence])
        (outcome,) = step.outcomes
        if len(outcome.draft) < drafts:  # at the end of the context
            token_ids.pop()
            break
        rows_TLK = np.stack(step.expert_ids, axis=1)
        own.append(rows_TLK[0])
        drafted.append(rows_TLK[1:])
        ids.append(outcome.draft.token_ids)
        p.append(outcome.draft.p)
        passes.append(np.stack(outcome.draft.expert_ids))
    return Trace(
        num_experts=model.config.num_experts,
        token_ids_N=np.array(token_ids, np.int32),
        expert_ids_NLK=np.array(own, np.int16),
        draft_ids_NM=np.array(ids, np.int32),
        draft_p_NM=np.array(p, np.float32),
        draft_expert_ids_NMLK=np.array(drafted, np.int16),
        mtp_expert_ids_NMK=np.array(passes, np.int16),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="GGUF file with an MTP block")
    parser.add_argument("out", type=Path, help="directory")
    parser.add_argument("--prompts", type=Path, default=PROMPTS, help='JSON list of {"kind", "text"}')
    parser.add_argument("--tokens", type=int, default=200, help="of each text")
    parser.add_argument("--drafts", type=int, default=5, help="at each token")
    parser.add_argument("--temperature", type=float, default=0.0)
    options = parser.parse_args()
    model = offload.load(options.model)
    if model.mtp is None:
        parser.error(f"{options.model} has no MTP block")
    options.out.mkdir(parents=True, exist_ok=True)
    for i, prompt in enumerate(json.loads(options.prompts.read_text(encoding="utf-8"))):
        trace = record(model, prompt["text"], options.tokens, options.drafts, options.temperature, seed=i)
        if trace.num_tokens < 2:
            continue
        path = options.out / f"{prompt['kind']}-{i:03d}.npz"
        np.savez_compressed(path, **trace.as_arrays())  # type: ignore[arg-type]
        right = trace.num_right()[: -options.drafts or None]
        shares = [round(float(np.mean(right > j)), 3) for j in range(options.drafts)]
        document = {"file": path.name, "tokens": trace.num_tokens, "accepted": shares, "bytes": path.stat().st_size}
        print(json.dumps(document), flush=True)


if __name__ == "__main__":
    main()
