"""Speed of draft lengths on one model, against plain decoding of the same text: `auto` beside fixed lengths.

Other work on a machine slows it down for a while. So all lengths generate the same text at once, step by step in turn,
the one that is behind first: what disturbs one disturbs all. Speeds are compared within a text; medians are over texts.
A median of few texts says little: the seconds of all texts together stand beside it (`ratio_of_sums`), and processor
time of all threads, which waiting for a core does not lengthen. The first text does not count: caches fill, `auto` gets
to know the model. The last line is one JSON document.

    python -m tools.compare_drafts MODEL [--lengths 1,2,3,4,auto] [--texts 12] [--tokens 48] [--temperature 0]
"""

import argparse
import json
import random
import statistics
import time
from collections.abc import Sequence as Many
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

import offload
from offload.drafting import AutoDrafter, Drafter, MtpDrafter, NgramDrafter, NoDrafter
from offload.engine import Engine
from offload.hardware.store import rounded
from offload.loading.layout_choice import LAYOUTS
from offload.sampling import Sampler, SamplingParams
from offload.sequence import Sequence
from offload.transformer.backend import Cache
from scheduler import AcceptanceCounter, DraftPolicy, FixedLength, PerRequest, ReuseCounter

PROMPTS = Path(offload.__file__).parent / "models" / "prompts.json"
PLAIN, AUTO, CHAT = 0, "auto", "chat"
LEFT_OUT = 40  # characters of a text that comes again


def number_or_word(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


def counting_prompts(model: offload.LanguageModel, num: int, length: int, step: int) -> list[list[int]]:
    """Token ids for models without a language: each prompt counts up from another token, `step` apart."""
    rng = random.Random(1)
    most = max(1, min(model.config.vocab_size, min(model.tokenizer.end_of_generation)) - step * (length + 2000))
    starts = [rng.randrange(0, most) // step * step for _ in range(num)]
    return [[start + step * i for i in range(length)] for start in starts]


@dataclass
class Lane:
    """One length, with an engine of its own that shares weights with the others."""

    length: int | str
    slot: int
    engine: Engine
    kinds: list[str] = field(default_factory=list)  # of the texts
    ratios: list[float] = field(default_factory=list)  # to plain decoding, a text each: wall time
    cpu_ratios: list[float] = field(default_factory=list)
    speeds: list[float] = field(default_factory=list)
    acceptance: AcceptanceCounter = field(default_factory=AcceptanceCounter)
    reuse: ReuseCounter = field(default_factory=ReuseCounter)
    policy_s: float = 0.0
    wall_s: float = 0.0
    cpu_s: float = 0.0

    def step(self, sequence: Sequence) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        step = self.engine.step([sequence])
        self.cpu_s += time.process_time() - cpu
        self.wall_s += time.perf_counter() - wall
        (outcome,) = step.outcomes
        self.acceptance.observe(len(outcome.draft), outcome.accepted)
        self.reuse.observe(step.expert_ids)


def lanes_of(model: offload.LanguageModel, lengths: Many[int | str], positions: int) -> list[Lane]:
    """A cache slot for each length."""
    config = model.config

    def cache(name: str, num_layers: int) -> Cache:
        size = (num_layers, len(lengths), config.num_kv_heads, positions, config.head_size)
        return model.backend.new_cache(name, size, "f16")

    trunk = replace(model.trunk, cache=cache("cache", config.num_layers))
    mtp = replace(model.mtp, cache=cache("MTP cache", 1)) if model.mtp else None
    lanes = []
    for slot, length in enumerate(lengths):
        drafter: Drafter = NoDrafter()
        policy: DraftPolicy = FixedLength(0 if length == AUTO else int(length))
        if length == AUTO:
            policy = model.new_policy()
            drafter = AutoDrafter(NgramDrafter(), MtpDrafter(mtp)) if mtp else NgramDrafter()
        elif length != PLAIN:
            drafter = MtpDrafter(mtp) if mtp else NgramDrafter()
        lanes.append(Lane(length, slot, Engine(trunk, drafter, policy, chunk_size=512)))
    return lanes


def race(lanes: list[Lane], kind: str, prompt: list[int], tokens: int, temperature: float, count: bool) -> None:
    """One text in all lanes, the one that is behind first."""
    sampler = Sampler(SamplingParams(temperature=temperature, seed=len(lanes[0].kinds)))
    limit = len(prompt) + tokens
    sequences = [Sequence(lane.slot, list(prompt), limit, sampler, frozenset()) for lane in lanes]
    for lane, sequence in zip(lanes, sequences, strict=True):
        while len(sequence.token_ids) == len(prompt):
            lane.engine.step([sequence])
        lane.wall_s = lane.cpu_s = 0.0
        if not count:
            lane.acceptance, lane.reuse = AcceptanceCounter(), ReuseCounter()
    while running := [i for i, s in enumerate(sequences) if len(s.token_ids) < limit]:
        behind = min(running, key=lambda i: len(sequences[i].token_ids))
        lanes[behind].step(sequences[behind])
    if any(s.token_ids != sequences[0].token_ids for s in sequences):
        raise AssertionError("drafts changed the text")
    if count:
        (plain,) = (lane for lane in lanes if lane.length == PLAIN)
        for lane in lanes:
            lane.kinds.append(kind)
            lane.speeds.append((tokens - 1) / lane.wall_s)
            lane.ratios.append(plain.wall_s / lane.wall_s)
            lane.cpu_ratios.append(plain.cpu_s / lane.cpu_s)


def summary(lane: Lane, plain: Lane) -> dict[str, object]:
    policy = lane.engine.policy
    plain_s, own_s = (sum(1 / speed for speed in of.speeds) for of in (plain, lane))  # of a token in each text
    return {
        "draft": lane.length,
        "tokens_per_s": round(statistics.median(lane.speeds), 3),
        "ratio": round(statistics.median(lane.ratios), 4),
        "ratio_of_sums": round(plain_s / own_s, 4),
        "ratio_cpu_time": round(statistics.median(lane.cpu_ratios), 4),
        "least_to_most": [round(min(lane.ratios), 3), round(max(lane.ratios), 3)],
        "accepted": [round(share, 3) for share in lane.acceptance.by_position],
        "drafted_per_step": round(lane.acceptance.drafted / max(1, lane.reuse.steps), 3),
        "experts_per_step": round(lane.reuse.experts_per_step, 2),
        "policy_share": round(policy.auto.thrift.share, 5) if isinstance(policy, PerRequest) else None,
    }


def by_kind(lanes: Many[Lane]) -> dict[str, dict[str, float]]:
    """Median speed of each length against plain decoding, on the texts of each kind."""
    kinds = dict.fromkeys(lanes[0].kinds)
    return {
        kind: {
            str(lane.length): round(
                statistics.median(r for r, k in zip(lane.ratios, lane.kinds, strict=True) if k == kind), 4
            )
            for lane in lanes
        }
        for kind in kinds
    }


def prompts_of(model: offload.LanguageModel, path: Path, kinds: Many[str], num: int) -> list[tuple[str, list[int]]]:
    """Texts of these kinds in turn: of the file's own, and `chat`, which are all of them as messages.

    Where they are used up they come again, each time a part of their end is left out: no two go on alike.
    """
    texts = json.loads(path.read_text(encoding="utf-8"))
    of_kind = {kind: [t["text"] for t in texts if kind in (t["kind"], CHAT)] for kind in kinds}
    prompts = []
    for i in range(num):
        kind, turn = kinds[i % len(kinds)], i // len(kinds)
        if not of_kind[kind]:
            raise SystemExit(f"--kinds {kind}: {path} has {', '.join(sorted({t['kind'] for t in texts}))}, and {CHAT}")
        again, which = divmod(turn, len(of_kind[kind]))
        text = of_kind[kind][which]
        text = text[: max(1, len(text) - again * LEFT_OUT)]
        if kind == CHAT:
            text = model.chat_template.render([{"role": "user", "content": text}])
        prompts.append((kind, model.tokenizer.encode(text)))
    return prompts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--lengths", default="1,2,3,4,auto", help="beside 0")
    parser.add_argument("--texts", type=int, default=12, help="of all kinds together, in turn")
    parser.add_argument("--tokens", type=int, default=48, help="of each text")
    parser.add_argument("--prompt-tokens", type=int, default=16, help="of a prompt that counts, for --count")
    parser.add_argument("--count", type=int, metavar="STEP", help="prompts that count up by STEP, not texts")
    parser.add_argument("--kinds", default=f"code,prose,{CHAT}", help=f"of texts; {CHAT}: all prompts as messages")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--prompts", type=Path, default=PROMPTS, help='JSON list of {"kind", "text"}')
    parser.add_argument("--threads", type=int)
    parser.add_argument("--layout", choices=LAYOUTS, default="auto", help="of weights that the CPU computes with")
    options = parser.parse_args()
    started = time.perf_counter()
    model = offload.load(options.model, threads=options.threads, layout=options.layout)
    model.warm_up()
    num = options.texts + 1
    if options.count:
        counting = counting_prompts(model, num, options.prompt_tokens, options.count)
        prompts = [("counting", prompt) for prompt in counting]
    else:
        prompts = prompts_of(model, options.prompts, options.kinds.split(","), num)
    lengths = list(dict.fromkeys([PLAIN, *map(number_or_word, options.lengths.split(","))]))
    lanes = lanes_of(model, lengths, max(len(ids) for _, ids in prompts) + options.tokens + 1)
    for i, (kind, prompt) in enumerate(prompts):
        race(lanes, kind, prompt, options.tokens, options.temperature, count=i > 0)
    results = [summary(lane, lanes[0]) for lane in lanes]
    table = Table(*results[0])
    for result in results:
        table.add_row(*(str(value) for value in result.values()))
    kinds = by_kind(lanes)
    of_kinds = Table("ratio on", *(str(length) for length in lengths))
    for kind, ratios in kinds.items():
        of_kinds.add_row(kind, *(str(ratio) for ratio in ratios.values()))
    console = Console(width=180)
    console.print(table)
    console.print(of_kinds)
    seconds = round(time.perf_counter() - started, 1)
    document = {"model": Path(options.model).name, "seconds": seconds, "results": results, "ratio_by_kind": kinds}
    for lane in lanes:
        if isinstance(lane.engine.policy, PerRequest):
            document["auto"] = rounded(lane.engine.policy.auto.report())
    print(json.dumps(document))


if __name__ == "__main__":
    main()
