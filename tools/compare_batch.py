"""Several requests in one batch against the same ones one after another: what sharing the weights of a step gives.

The bytes that steps count, each distinct weight once, say how fast a batch may be: as fast as those bytes can be read
at the rate at which single sequences read theirs. Both ways are batches of the server's, on one model with a slot for
each; they take turns step by step, the one that is behind first, so that other work on the machine disturbs both.
Steps that read prompts are not counted. Medians are over rounds. The last line is one JSON document, in tokens/s:
`together`, `one_after_another`, and `bytes_allow` for the batch; `gain` and `share_of_bytes` are their quotients.

    python -m tools.compare_batch MODEL --count 2 [--sequences 4] [--rounds 5] [--tokens 48] [--draft 0]
"""

import argparse
import json
import statistics
from collections import deque
from pathlib import Path

import offload
from offload.loading.layout_choice import LAYOUTS
from offload.request import GenerationRequest
from offload.sampling import SamplingParams
from offload.serving.answer import Answer
from offload.serving.batch import Batch
from tools.compare_drafts import counting_prompts, number_or_word

PROMPT_TOKENS = 16


class Way:
    """Answers a number of requests, `at_once` of them in a batch."""

    def __init__(self, model: offload.LanguageModel, at_once: int):
        self.batch, self.at_once = Batch(model), at_once
        self.batch.engine.policy = model.new_policy()  # what it learns of this way is not the other's

    def begin(self, requests: list[GenerationRequest]) -> None:
        self.answers = [Answer(request, self.batch.model.sequence(request), lambda: None) for request in requests]
        self.tokens = sum(request.max_tokens for request in requests)
        self.waiting = deque(self.answers)
        self.generated = self.num_bytes = 0
        self.seconds = 0.0

    @property
    def progress(self) -> float:
        """Share of the tokens that are there."""
        return sum(len(answer.result.tokens) for answer in self.answers) / self.tokens

    def step(self) -> None:
        """One step of the batch, filled up before it; counted if it reads no prompt."""
        batch = self.batch
        while self.waiting and len(batch.answers) < self.at_once:
            batch.admit(self.waiting.popleft())
        counts = all(answer.result.tokens for answer in batch.answers)
        before = batch.tally.snapshot(0, 0)
        batch.step()
        after = batch.tally.snapshot(0, 0)
        if counts:
            self.seconds += after.step_s - before.step_s
            self.num_bytes += after.bytes_read - before.bytes_read
            self.generated += after.generated_tokens - before.generated_tokens

    @property
    def tokens_per_s(self) -> float:
        return self.generated / self.seconds

    @property
    def bytes_per_s(self) -> float:
        return self.num_bytes / self.seconds

    @property
    def bytes_per_token(self) -> float:
        return self.num_bytes / self.generated


def race(batch: Way, single: Way, requests: list[GenerationRequest]) -> dict[str, float]:
    """The same requests both ways."""
    for way in (batch, single):
        way.begin(requests)
    while (behind := min(batch, single, key=lambda way: way.progress)).progress < 1:
        behind.step()
    if [answer.result.tokens for answer in batch.answers] != [answer.result.tokens for answer in single.answers]:
        raise AssertionError("a sequence says something else in a batch")
    allowed = single.bytes_per_s / batch.bytes_per_token
    return {
        "together": batch.tokens_per_s,
        "one_after_another": single.tokens_per_s,
        "bytes_allow": allowed,
        "gain": batch.tokens_per_s / single.tokens_per_s,
        "share_of_bytes": batch.tokens_per_s / allowed,
    }


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
    model = offload.load(
        options.model,
        slots=options.sequences + 1,
        context=PROMPT_TOKENS + options.tokens + 2,
        threads=options.threads,
        layout=options.layout,
    )
    model.warm_up()
    prompts = counting_prompts(model, options.sequences * (options.rounds + 1), PROMPT_TOKENS, options.count)
    never_end = dict.fromkeys(model.tokenizer.end_of_generation, float("-inf"))
    sampling = SamplingParams(temperature=0, logit_bias=never_end)
    requests = [
        GenerationRequest(prompt, options.tokens, sampling=sampling, draft=options.draft, drafter="mtp")
        for prompt in prompts
    ]
    batch, single = Way(model, options.sequences), Way(model, 1)
    found = []
    for i in range(0, len(requests), options.sequences):
        found.append(race(batch, single, requests[i : i + options.sequences]))
        if i:
            print(json.dumps({name: round(value, 3) for name, value in found[-1].items()}))
    medians = {name: round(statistics.median(f[name] for f in found[1:]), 3) for name in found[0]}
    # the first round does not count: caches fill, `auto` gets to know the model
    shape = {"sequences": options.sequences, "draft": options.draft, "rounds": options.rounds}
    print(json.dumps({"model": Path(options.model).name, **shape, **medians}))


if __name__ == "__main__":
    main()
