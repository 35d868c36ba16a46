"""Several sequences in one batch against the same ones one after another: what sharing the weights of a step gives.

The bytes that steps count, each distinct weight once, say how fast a batch may be: as many tokens as those bytes allow
at the rate at which the same run reads when it decodes plainly. Rounds take turns as in `tools.compare_drafts`. The
last line is one JSON document.

    python -m tools.compare_batch MODEL [--sequences 4] [--rounds 5] [--tokens 48] [--draft 0]
"""

import argparse
import json
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path

import offload
from offload.drafting import Drafter, MtpDrafter, NoDrafter
from offload.engine import Engine
from offload.kv_cache import KvCache
from offload.layout import LAYOUTS
from offload.sampling import Sampler, SamplingParams
from offload.sequence import Sequence
from offload.step_cost import step_cost_of
from scheduler import AutoPolicy, DraftPolicy, FixedLength
from tools.compare_drafts import counting_prompts, number_or_word


@dataclass(frozen=True)
class Run:
    """Steps behind the prompts."""

    tokens: list[list[int]]
    generated: int
    seconds: float
    num_bytes: int


class Batch:
    """The model with a cache slot for each sequence."""

    def __init__(self, model: offload.LanguageModel, num_sequences: int, positions: int, draft: int | str):
        config = model.config

        def cache(num_layers: int) -> KvCache:
            return KvCache(num_layers, num_sequences, config.num_kv_heads, positions, config.head_size, "f16")

        self.stop_ids = model.tokenizer.end_of_generation
        self.trunk = replace(model.trunk, cache=cache(config.num_layers))
        self.mtp = replace(model.mtp, cache=cache(1)) if model.mtp and draft != 0 else None
        self.policy: DraftPolicy
        if isinstance(draft, int):
            self.policy = FixedLength(draft)
        else:
            cost = step_cost_of(self.trunk, self.mtp)
            self.policy = AutoPolicy(cost, config.num_experts, config.num_used_experts, self.mtp is not None)

    def run(self, prompts: list[list[int]], tokens: int) -> Run:
        """Generates `tokens` behind each prompt, all at once; the prompts' own steps are not counted."""
        drafter: Drafter = MtpDrafter(self.mtp) if self.mtp else NoDrafter()
        engine = Engine(self.trunk, drafter, self.policy, chunk_size=512)
        sampler = Sampler(SamplingParams(temperature=0))
        sequences = [
            Sequence(slot, list(prompt), len(prompt) + tokens, sampler, self.stop_ids)
            for slot, prompt in enumerate(prompts)
        ]
        while any(len(s.token_ids) == s.num_prompt for s in sequences):
            engine.step([s for s in sequences if len(s.token_ids) == s.num_prompt])
        before = sum(len(s.token_ids) for s in sequences)
        started, num_bytes = time.perf_counter(), 0
        while running := [s for s in sequences if len(s.token_ids) < s.limit]:
            num_bytes += engine.step(running).bytes_read
        seconds = time.perf_counter() - started
        generated = sum(len(s.token_ids) for s in sequences) - before
        return Run([s.token_ids[s.num_prompt :] for s in sequences], generated, seconds, num_bytes)


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
    prompts = counting_prompts(model, options.sequences * (options.rounds + 1), 16, options.count)
    positions = 16 + options.tokens + 2
    batch = Batch(model, options.sequences, positions, options.draft)
    single = Batch(model, 1, positions, options.draft)
    plain = Batch(model, 1, positions, 0)
    found: dict[str, list[float]] = {"batch": [], "one by one": [], "of what bytes allow": [], "ratio": []}
    for i in range(options.rounds + 1):
        chosen = prompts[i * options.sequences : (i + 1) * options.sequences]
        reads = [plain.run(chosen[:1], options.tokens)]
        together = batch.run(chosen, options.tokens)
        alone = [single.run([prompt], options.tokens) for prompt in chosen]
        reads.append(plain.run(chosen[:1], options.tokens))
        if together.tokens != [run.tokens[0] for run in alone]:
            raise AssertionError("a sequence says something else in a batch")
        if i == 0:  # caches fill, `auto` gets to know the model
            continue
        bytes_per_s = sum(r.num_bytes for r in reads) / sum(r.seconds for r in reads)
        speed = together.generated / together.seconds
        allowed = together.generated / (together.num_bytes / bytes_per_s)
        one_by_one = sum(run.generated for run in alone) / sum(run.seconds for run in alone)
        for name, value in zip(found, (speed, one_by_one, speed / allowed, speed / one_by_one), strict=True):
            found[name].append(value)
    result = {name: round(statistics.median(values), 3) for name, values in found.items()}
    print(json.dumps({"model": Path(options.model).name, "draft": options.draft, **result}))


if __name__ == "__main__":
    main()
