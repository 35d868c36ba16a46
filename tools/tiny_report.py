"""Measure a trained tiny GLM: acceptance of drafts by position, experts that consecutive tokens share, sample texts.

Everything runs along the model's own greedy continuations of the shipped prompts, in PyTorch. The last line is one JSON
document. `python -m tools.tiny_report CHECKPOINT TOKENIZER PROMPTS`
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from tools.tiny_gguf import load_checkpoint
from tools.tiny_model import TinyGlm

MAX_DRAFTS = 3


@dataclass
class Walk:
    """A greedy continuation and what was seen along it."""

    tokens: list[int]  # prompt and continuation
    hits: Tensor  # (positions, MAX_DRAFTS): whether draft j is what the trunk writes
    chosen: Tensor  # (positions, MoE layers, K): experts of every generated row


@torch.no_grad()
def walk(model: TinyGlm, prompt: list[int], num_tokens: int) -> Walk:
    """Decode greedily, past end tokens too, and draft at every position.

    Draft 1 comes from true states, the further ones from the MTP block's own, as in the runtime; the block's cache
    is cut back to the true rows afterwards.
    """
    model.start_decoding()
    layers = model.moe_layers()[:-1]  # without the MTP block's
    attention = model.mtp.block.attn
    h = model.trunk(torch.tensor([prompt]))
    tokens, drafts, chosen = list(prompt), [], []
    if len(prompt) > 1:
        model.draft(torch.tensor([prompt[1:]]), h[:, :-1], first=1)
    for _ in range(num_tokens):
        tokens.append(int(model.head(h[0, -1]).argmax()))
        state, guesses = h[:, -1:], [tokens[-1]]
        for j in range(MAX_DRAFTS):
            state = model.draft(torch.tensor([guesses[-1:]]), state, first=len(tokens) - 1 + j)
            guesses.append(int(model.head(state[0, -1]).argmax()))
        assert attention.past is not None
        keys, values = attention.past
        num_true = len(tokens) - 1  # the block has no row for position 0
        attention.past = keys[:, :, :num_true], values[:, :, :num_true]
        drafts.append(guesses[1:])
        h = model.trunk(torch.tensor([tokens[-1:]]), first=len(tokens) - 1)
        chosen.append(torch.stack([layer.chosen[0] for layer in layers]))
    written = torch.tensor(tokens[len(prompt) :])
    count = num_tokens - MAX_DRAFTS
    truth = torch.stack([written[1 + j : 1 + j + count] for j in range(MAX_DRAFTS)], dim=1)
    return Walk(tokens, torch.tensor(drafts)[:count] == truth, torch.stack(chosen))


def union(chosen: Tensor, num_rows: int) -> float:
    """U(t): distinct experts of t consecutive rows / experts of one, mean over layers and places."""
    positions, layers, used = chosen.shape
    counts = [
        len(set(chosen[p : p + num_rows, layer].flatten().tolist()))
        for p in range(positions - num_rows + 1)
        for layer in range(layers)
    ]
    return float(sum(counts) / len(counts) / used)


def summary(walks: list[Walk]) -> dict[str, object]:
    """Acceptance by position and unions, over several walks."""
    reached = torch.cat([w.hits for w in walks]).float().cumprod(1)
    before = torch.cat([torch.ones(len(reached), 1), reached[:, :-1]], dim=1)
    return {
        "accepted_given_reached": [round(x, 3) for x in (reached.sum(0) / before.sum(0)).tolist()],
        "all_accepted_up_to": [round(x, 3) for x in reached.mean(0).tolist()],
        "position_1_by_document": [round(float(w.hits[:, 0].float().mean()), 2) for w in walks],
        "union": {t: round(sum(union(w.chosen, t) for w in walks) / len(walks), 3) for t in (2, 3, 4)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("prompts", type=Path)
    parser.add_argument("--tokens", type=int, default=200)
    arguments = parser.parse_args()
    model, step = load_checkpoint(arguments.checkpoint)
    tokenizer = Tokenizer.from_file(str(arguments.tokenizer))
    walks: dict[str, list[Walk]] = {"code": [], "prose": []}
    for prompt in json.loads(arguments.prompts.read_text(encoding="utf-8")):
        ids = tokenizer.encode(prompt["text"]).ids
        walks[prompt["kind"]].append(seen := walk(model, ids, arguments.tokens))
        print(f"--- {prompt['kind']}, {len(ids)} tokens: ...{prompt['text'][-80:]!r}")
        print(tokenizer.decode(seen.tokens[len(ids) :], skip_special_tokens=False))
    everything = {**walks, "all": walks["code"] + walks["prose"]}
    print(json.dumps({"step": step, **{kind: summary(part) for kind, part in everything.items()}}))


if __name__ == "__main__":
    main()
