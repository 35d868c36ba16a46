"""Acceptance of MTP drafts along a model's own text: by position, temperature and way of drawing, beside the optimum.

At temperature 0 drafts are greedy. Above it, `coupled` drafts are drawn with the same noise as the tokens themselves,
`greedy` ones are the most probable token, and `optimum` is the mean of sum(min(target_p, draft_p)) for the first
draft: what no scheme that leaves the distribution alone can exceed.

Prompts are the held-out ones of the package, or those of a JSON file of the same form. The last line is one JSON
document.

    python -m tools.measure_acceptance MODEL [--tokens 200] [--draft 3]
"""

import argparse
import json
from collections.abc import Sequence as Many
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import offload
from offload.drafting import Draft, MtpDrafter
from offload.sampling import SamplingParams
from offload.sampling.filters import candidates
from offload.sequence import Sequence
from offload.transformer.backend import Array
from offload.transformer.rows import Rows
from scheduler import AcceptanceCounter, ReuseCounter, StepPlan

PROMPTS = Path(offload.__file__).parent / "models" / "prompts.json"
OPEN = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}  # no filters: the whole distribution


class RecordingDrafter(MtpDrafter):
    """Keeps the logits of each step's first drafts."""

    first_logits = np.zeros((0, 0), np.float32)

    def propose(self, sequences: Many[Sequence], plan: StepPlan) -> list[Draft]:
        self._recorded = False
        return super().propose(sequences, plan)

    def finish(self, pairs: Rows, u_TD: Array) -> tuple[Array, np.ndarray, np.ndarray]:
        g_TD, logits_TV, expert_ids_TK = super().finish(pairs, u_TD)
        if not self._recorded:
            self.first_logits, self._recorded = logits_TV, True
        return g_TD, logits_TV, expert_ids_TK


class GreedyDrafter(MtpDrafter):
    """Drafts the most probable token whatever the temperature."""

    def propose(self, sequences: Many[Sequence], plan: StepPlan) -> list[Draft]:
        samplers = [s.sampler for s in sequences]
        for sequence in sequences:
            sequence.sampler = type(sequence.sampler)(SamplingParams(temperature=0))
        drafts = super().propose(sequences, plan)
        for sequence, sampler in zip(sequences, samplers, strict=True):
            sequence.sampler = sampler
        return drafts


def overlap(target_V: np.ndarray, draft_V: np.ndarray, params: SamplingParams) -> float:
    """sum(min(target_p, draft_p)) of two rows of logits."""
    (_, target), (_, draft) = candidates(target_V, params), candidates(draft_V, params)
    return float(np.minimum(np.exp(target), np.exp(draft)).sum())


def measure(
    model: offload.LanguageModel, drafter: MtpDrafter, prompts: Many[str], temperature: float, tokens: int, draft: int
) -> dict[str, object]:
    """Runs all prompts with one drafter; steps behind the prompt count."""
    acceptance, reuse, overlaps = AcceptanceCounter(), ReuseCounter(), []
    for seed, prompt in enumerate(prompts):
        model.logits([0])  # what another drafter left in the caches is not to be used
        settings: dict[str, Any] = {"temperature": temperature, "seed": seed, **OPEN}
        generation = model.generate(prompt, max_tokens=tokens, draft=draft, drafter=drafter, **settings)
        engine, sequence = generation._engine, generation._sequence
        while len(sequence.token_ids) < sequence.limit and sequence.token_ids[-1] not in sequence.stop_ids:
            step = engine.step([sequence])
            (outcome,) = step.outcomes
            if len(outcome.draft):
                acceptance.observe(len(outcome.draft), outcome.accepted)
                reuse.observe(step.expert_ids)
                if isinstance(drafter, RecordingDrafter) and temperature > 0:
                    overlaps.append(overlap(outcome.logits[0], drafter.first_logits[0], sequence.sampler.params))
    return {
        "by_position": [round(share, 3) for share in acceptance.by_position],
        "optimum": round(float(np.mean(overlaps)), 3) if overlaps else None,
        "experts_per_step": round(reuse.experts_per_step, 2),
        "expert_reuse": round(reuse.reuse, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="GGUF file with an MTP block")
    parser.add_argument("--prompts", type=Path, default=PROMPTS, help='JSON list of {"kind", "text"}')
    parser.add_argument("--tokens", type=int, default=200, help="generated for each prompt")
    parser.add_argument("--draft", type=int, default=3)
    options = parser.parse_args()
    model = offload.load(options.model)
    if model.mtp is None:
        parser.error(f"{options.model} has no MTP block")
    prompts = json.loads(options.prompts.read_text(encoding="utf-8"))
    table = Table("text", "temperature", "drafts", "accepted by position", "optimum", "experts a step", "reuse")
    results = []
    for kind in sorted({prompt["kind"] for prompt in prompts}):
        texts = [prompt["text"] for prompt in prompts if prompt["kind"] == kind]
        for temperature, name in ((0.0, "greedy"), (1.0, "coupled"), (1.0, "greedy")):
            greedy_at_random = temperature > 0 and name == "greedy"
            drafter = GreedyDrafter(model.mtp) if greedy_at_random else RecordingDrafter(model.mtp)
            found = measure(model, drafter, texts, temperature, options.tokens, options.draft)
            results.append({"kind": kind, "temperature": temperature, "drafts": name, **found})
            table.add_row(kind, str(temperature), name, *(str(value) for value in found.values()))
    Console().print(table)
    print(json.dumps({"model": Path(options.model).name, "tokens": options.tokens, "results": results}))


if __name__ == "__main__":
    main()
