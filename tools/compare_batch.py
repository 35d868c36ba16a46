"""Several sequences in one batch against the same ones one after another: what sharing the weights of a step gives.

The bytes that steps count, each distinct weight once, say how fast a batch may be: as fast as those bytes can be read
at the rate at which single sequences read theirs. Both ways take turns step by step, the one that is behind first, so
that other work on the machine disturbs both; medians are over rounds. The last line is one JSON document.

    python -m tools.compare_batch MODEL --count 2 [--sequences 4] [--rounds 5] [--tokens 48] [--draft 0]
"""

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path

import offload
from offload.backend import Cache
from offload.drafting import Drafter, MtpDrafter, NoDrafter
from offload.engine import Engine
from offload.layout import LAYOUTS
from offload.sampling import Sampler, SamplingParams
from offload.sequence import Sequence
from offload.step_cost import step_cost_of
from scheduler import AutoPolicy, DraftPolicy, FixedLength
from tools.compare_drafts import counting_prompts, number_or_word

PROMPT_TOKENS = 16


class Way:
    """Generates a number of sequences, `at_once` of them in a batch."""

    def __init__(self, model: offload.LanguageModel, at_once: int, positions: int, draft: int | str):
        config = model.config

        def cache(name: str, num_layers: int) -> Cache:
            size = (num_layers, at_once, config.num_kv_heads, positions, config.head_size)
            return model.backend.new_cache(name, size, "f16")

        trunk = replace(model.trunk, cache=cache("cache", config.num_layers))
        mtp = replace(model.mtp, cache=cache("MTP cache", 1)) if model.mtp and draft != 0 else None
        policy: DraftPolicy = FixedLength(draft) if isinstance(draft, int) else self._auto(trunk, mtp)
        drafter: Drafter = MtpDrafter(mtp) if mtp else NoDrafter()
        self.engine, self.at_once = Engine(trunk, drafter, policy, chunk_size=512), at_once

    def _auto(self, trunk: offload.trunk.Trunk, mtp: offload.mtp.MtpBlock | None) -> AutoPolicy:
        config = trunk.layers.config
        return AutoPolicy(step_cost_of(trunk, mtp), config.num_experts, config.num_used_experts, mtp is not None)

    def begin(self, prompts: list[list[int]], tokens: int) -> None:
        sampler = Sampler(SamplingParams(temperature=0))
        self.sequences = [
            Sequence(i % self.at_once, list(prompt), len(prompt) + tokens, sampler, frozenset())
            for i, prompt in enumerate(prompts)
        ]
        self.generated = self.num_bytes = 0
        self.seconds = 0.0

    @property
    def progress(self) -> float:
        """Share of the tokens that are there."""
        return sum(len(s.token_ids) - s.num_prompt for s in self.sequences) / sum(
            s.limit - s.num_prompt for s in self.sequences
        )

    def step(self) -> None:
        """One step of the next batch; its prompts' own steps are not counted."""
        batch = [s for s in self.sequences if len(s.token_ids) < s.limit][: self.at_once]
        while reading := [s for s in batch if len(s.token_ids) == s.num_prompt]:
            self.engine.step(reading)
        started = time.perf_counter()
        step = self.engine.step(batch)
        self.seconds += time.perf_counter() - started
        self.num_bytes += step.bytes_read
        self.generated += sum(len(outcome.draws) for outcome in step.outcomes)

    @property
    def tokens_per_s(self) -> float:
        return self.generated / self.seconds

    @property
    def bytes_per_s(self) -> float:
        return self.num_bytes / self.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--sequences", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=48, help="of each sequence")
    parser.add_argument("--draft", type=number_or_word, default=0, help="a length, or auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--layout", choices=LAYOUTS, default="auto", help="of weights that the CPU computes with")
    parser.add_argument("--count", type=int, default=2, metavar="STEP", help="prompts count up by STEP")
    options = parser.parse_args()
    model = offload.load(options.model, threads=options.threads, layout=options.layout)
    model.warm_up()
    prompts = counting_prompts(model, options.sequences * (options.rounds + 1), PROMPT_TOKENS, options.count)
    positions = PROMPT_TOKENS + options.tokens + 2
    batch = Way(model, options.sequences, positions, options.draft)
    single = Way(model, 1, positions, options.draft)
    found: dict[str, list[float]] = {"batch": [], "one by one": [], "ratio": [], "of what bytes allow": []}
    for i in range(options.rounds + 1):
        for way in (batch, single):
            way.begin(prompts[i * options.sequences : (i + 1) * options.sequences], options.tokens)
        while (behind := min(batch, single, key=lambda way: way.progress)).progress < 1:
            behind.step()
        if [s.token_ids for s in batch.sequences] != [s.token_ids for s in single.sequences]:
            raise AssertionError("a sequence says something else in a batch")
        if i == 0:  # caches fill, `auto` gets to know the model
            continue
        found["batch"].append(batch.tokens_per_s)
        found["one by one"].append(single.tokens_per_s)
        found["ratio"].append(batch.tokens_per_s / single.tokens_per_s)
        found["of what bytes allow"].append(batch.bytes_per_s / single.bytes_per_s)
    result = {name: round(statistics.median(values), 3) for name, values in found.items()}
    print(json.dumps({"model": Path(options.model).name, "draft": options.draft, **result}))


if __name__ == "__main__":
    main()
