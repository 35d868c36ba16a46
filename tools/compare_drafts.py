"""Speed of draft lengths on one model, against plain decoding in the same round: `auto` beside fixed lengths.

Other work on a machine slows all runs for a while, so runs are short and take turns, each round in another order. A
round compares its runs with its own plain ones, which stand at its beginning and its end; medians are over rounds. The
last line is one JSON document.

    python -m tools.compare_drafts MODEL [--lengths 0,1,2,3,4,auto] [--rounds 7] [--tokens 48]
"""

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from collections.abc import Sequence as Many
from pathlib import Path

from rich.console import Console
from rich.table import Table

import offload

PROMPTS = Path(offload.__file__).parent / "models" / "prompts.json"
PLAIN = 0
Clock = Callable[[], float]
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}


def number_or_word(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


def random_prompts(model: offload.LanguageModel, num: int, length: int, step: int) -> list[list[int]]:
    """Token ids for models without a language: each prompt counts up from another token, `step` apart."""
    rng = random.Random(1)
    most = max(1, min(model.config.vocab_size, min(model.tokenizer.end_of_generation)) - step * (length + 2000))
    starts = [rng.randrange(0, most) // step * step for _ in range(num)]
    return [[start + step * i for i in range(length)] for start in starts]


def run(
    model: offload.LanguageModel, prompt: str | Many[int], draft: int | str, tokens: int, clock: Clock
) -> tuple[offload.Result, float]:
    """A generation, and its tokens per second behind the first by this clock."""
    generation = model.generate(prompt, max_tokens=tokens, draft=draft, temperature=0)
    events = iter(generation)
    next(events)
    started = clock()
    for _ in events:
        pass
    return generation.result, (len(generation.result.tokens) - 1) / (clock() - started)


def compare(
    model: offload.LanguageModel,
    prompts: Many[str | Many[int]],
    lengths: Many[int | str],
    rounds: int,
    tokens: int,
    clock: Clock,
) -> list[dict[str, object]]:
    """Rounds over all lengths; each round has a prompt of its own."""
    rng = random.Random(0)
    speeds: dict[int | str, list[float]] = {length: [] for length in lengths}
    ratios: dict[int | str, list[float]] = {length: [] for length in lengths}
    last: dict[int | str, offload.Result] = {}
    for i in range(rounds + 1):
        prompt = prompts[i % len(prompts)]
        order = [length for length in lengths if length != PLAIN]
        rng.shuffle(order)
        found: dict[int | str, list[float]] = {}
        plain: list[float] = []
        for length in [PLAIN, *order, PLAIN]:
            result, speed = run(model, prompt, length, tokens, clock)
            (plain if length == PLAIN else found.setdefault(length, [])).append(speed)
            last[length] = result
            if result.tokens != last[PLAIN].tokens:
                raise AssertionError(f"draft {length} changed the text")
        if i == 0:  # caches fill, `auto` gets to know the model
            continue
        base = statistics.mean(plain)
        found[PLAIN] = plain
        for length, values in found.items():
            speeds[length].append(statistics.mean(values))
            ratios[length].append(statistics.mean(values) / base)
    return [
        {
            "draft": length,
            "tokens_per_s": round(statistics.median(speeds[length]), 3),
            "ratio": round(statistics.median(ratios[length]), 4),
            "spread": [round(min(ratios[length]), 3), round(max(ratios[length]), 3)],
            "accepted": [round(share, 3) for share in last[length].acceptance.by_position],
            "drafted_per_step": round(last[length].acceptance.drafted / max(1, last[length].reuse.steps), 3),
            "experts_per_step": round(last[length].reuse.experts_per_step, 2),
        }
        for length in lengths
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--lengths", default="0,1,2,3,4,auto", help="0 is always among them")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=48, help="of each run")
    parser.add_argument("--prompt-tokens", type=int, default=16, help="of a prompt that counts, for --count")
    parser.add_argument("--count", type=int, metavar="STEP", help="prompts that count up by STEP, not texts")
    parser.add_argument("--kind", help="only prompts of this kind: code or prose")
    parser.add_argument("--prompts", type=Path, default=PROMPTS, help='JSON list of {"kind", "text"}')
    parser.add_argument("--threads", type=int)
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="cpu: with one thread, where other work takes the cores"
    )
    options = parser.parse_args()
    started = time.perf_counter()
    model = offload.load(options.model, threads=options.threads)
    model.warm_up()
    if options.count:
        prompts = random_prompts(model, options.rounds + 1, options.prompt_tokens, options.count)
    else:
        texts = json.loads(options.prompts.read_text(encoding="utf-8"))
        prompts = [t["text"] for t in texts if options.kind in (None, t["kind"])]
    lengths = list(dict.fromkeys([PLAIN, *map(number_or_word, options.lengths.split(","))]))
    results = compare(model, prompts, lengths, options.rounds, options.tokens, CLOCKS[options.clock])
    table = Table("draft", "tokens/s", "x plain", "least to most", "accepted", "drafted a step", "experts")
    for result in results:
        table.add_row(*(str(value) for value in result.values()))
    Console().print(table)
    document = {
        "model": Path(options.model).name,
        "clock": options.clock,
        "seconds": round(time.perf_counter() - started, 1),
        "results": results,
    }
    print(json.dumps(document))


if __name__ == "__main__":
    main()
