"""Train the tiny GLM that ships with the package: tokenizer, token stream, AdamW loop, checkpoints, GGUF file.

The loss is trunk + 0.3 x first draft + 0.1 x second draft (the MTP block fed with its own state, on a quarter of the
sequences). The router's bias is moved against the load after every step. The learning rate is constant and falls
linearly over the second half of the steps, in which the windows are twice as long. The number of steps is fixed
and everything follows from the seed, up to the order of float sums (threads, processor). A run goes on from the
last checkpoint in its work directory. Does not tune.

    python -m tools.tiny_corpus CORPUS_DIR
    python -m tools.train_tiny --corpus-dir CORPUS_DIR --work-dir WORK_DIR --out tiny-glm.gguf
"""

import argparse
import ctypes
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from tools.tiny_model import TinyConfig, TinyGlm
from tools.tiny_tokenizer import train_tokenizer

MTP_WEIGHT, SECOND_DRAFT_WEIGHT = 0.3, 0.1
BIAS_RATE, EARLY_BIAS_RATE, EARLY_STEPS = 1e-3, 4e-3, 200  # fewer steps than a real run has to balance the load


@dataclass(frozen=True)
class Recipe:
    """What a training run does, apart from the model's sizes."""

    steps: int = 1600
    seed: int = 1
    batch: int = 8
    length: int = 256
    learning_rate: float = 2e-3
    final_share: float = 0.02
    warmup_steps: int = 100
    decay_share: float = 0.5
    long_factor: int = 2
    weight_decay: float = 0.1
    threads: int = 1

    @property
    def decay_start(self) -> int:
        return round(self.steps * (1 - self.decay_share))

    def window(self, step: int) -> tuple[int, int]:
        """Sequences and tokens per sequence of a step: fewer and longer ones at the end."""
        if step < self.decay_start:
            return self.batch, self.length
        return max(1, self.batch // self.long_factor), self.length * self.long_factor

    def learning_rate_at(self, step: int) -> float:
        """Linear warm-up, constant, then linear down to `final_share`."""
        if step < self.decay_start:
            return self.learning_rate * min(1.0, (step + 1) / self.warmup_steps)
        progress = (step - self.decay_start) / max(1, self.steps - self.decay_start)
        return self.learning_rate * (1 - (1 - self.final_share) * progress)


def keep_freed_memory() -> None:
    """Let glibc keep large freed blocks; otherwise page faults take most of the time of a step."""
    if sys.platform == "linux":
        libc = ctypes.CDLL("libc.so.6")
        for option, value in ((-4, 0), (-1, 2**31 - 1), (-2, 256 << 20), (-8, 1)):  # mmap max, trim, top pad, arenas
            libc.mallopt(option, value)


def read_corpus(folder: Path) -> list[dict[str, Any]]:
    with open(folder / "corpus.jsonl", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def tokenizer_for(documents: list[dict[str, Any]], vocab_size: int, path: Path) -> Tokenizer:
    """The tokenizer at `path`, trained on the documents first if there is none."""
    if not path.exists():
        train_tokenizer((d["text"] for d in documents if not d["held_out"]), vocab_size).save(str(path))
    return Tokenizer.from_file(str(path))


def token_stream(tokenizer: Tokenizer, documents: list[dict[str, Any]], seed: int) -> np.ndarray[Any, np.dtype[Any]]:
    """All documents in a random order, each followed by <|endoftext|>, as one array of ids."""
    end = tokenizer.token_to_id("<|endoftext|>")
    order = np.random.default_rng(seed).permutation(len(documents))
    encodings = tokenizer.encode_batch([documents[i]["text"] for i in order])
    return np.concatenate([np.array([*e.ids, end], np.int64) for e in encodings])


class Batches:
    """Windows of the stream in a random order, each once per epoch, cut at a new offset in every epoch."""

    def __init__(self, stream: np.ndarray[Any, np.dtype[Any]], recipe: Recipe) -> None:
        self.stream, self.recipe = stream, recipe
        self.rng = np.random.default_rng(recipe.seed)
        self.starts = np.zeros(0, np.int64)

    def starts_of(self, step: int) -> np.ndarray[Any, np.dtype[Any]]:
        """Offsets of the windows of a step; to be called for every step in order."""
        batch, length = self.recipe.window(step)
        if len(self.starts) < batch or step == self.recipe.decay_start:
            offset = int(self.rng.integers(length))
            self.starts = self.rng.permutation(np.arange(offset, len(self.stream) - length - 1, length))
        chosen, self.starts = self.starts[:batch], self.starts[batch:]
        return chosen

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and their successors, both (B, T)."""
        length = self.recipe.window(step)[1]
        rows = torch.from_numpy(np.stack([self.stream[s : s + length + 1] for s in self.starts_of(step)]))
        return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()


def optimizer_for(model: TinyGlm, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW; weight decay on the matrices only."""
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.95), eps=1e-8, fused=True)


def save(model: TinyGlm, optimizer: torch.optim.Optimizer, step: int, folder: Path) -> None:
    """Write a checkpoint in one piece."""
    parts = {"config": asdict(model.config), "model": model.state_dict(), "step": step}
    torch.save({**parts, "optimizer": optimizer.state_dict()}, folder / "last.pt.tmp")
    (folder / "last.pt.tmp").replace(folder / "last.pt")


def resume(model: TinyGlm, optimizer: torch.optim.Optimizer, folder: Path) -> int:
    """Load the last checkpoint, if there is one; returns the number of steps done."""
    if not (folder / "last.pt").exists():
        return 0
    checkpoint = torch.load(folder / "last.pt", weights_only=True)
    model.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    return int(checkpoint["step"])


def train(model: TinyGlm, batches: Batches, recipe: Recipe, folder: Path) -> None:
    """The training loop; prints a line every 50 steps and writes a checkpoint every 100."""
    optimizer = optimizer_for(model, recipe)
    done = resume(model, optimizer, folder)
    for step in range(done):
        batches.starts_of(step)
    sums, began = torch.zeros(3), time.perf_counter()
    for step in range(done, recipe.steps):
        bias_rate = EARLY_BIAS_RATE if step < EARLY_STEPS else BIAS_RATE
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate_at(step)
        tokens, targets = batches.batch(step)
        with torch.autocast("cpu", torch.bfloat16):  # matrix products only; weights and the residual stay float32
            trunk, first, second = model.losses(tokens, targets, max(1, len(tokens) // 4))
        (trunk + MTP_WEIGHT * first + SECOND_DRAFT_WEIGHT * second).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        load = max(layer.balance(bias_rate) for layer in model.moe_layers())
        sums += torch.stack([trunk, first, second]).detach()
        if (step + 1) % 50 == 0:
            speed = 50 * tokens.numel() / (time.perf_counter() - began)
            losses = " ".join(f"{name} {x:.3f}" for name, x in zip(("trunk", "mtp", "second"), sums / 50, strict=True))
            print(f"step {step + 1} {losses} load max/mean {load:.2f} {speed:.0f} tokens/s", flush=True)
            sums, began = torch.zeros(3), time.perf_counter()
        if (step + 1) % 100 == 0 or step + 1 == recipe.steps:
            save(model, optimizer, step + 1, folder)


@torch.no_grad()
def held_out_losses(model: TinyGlm, stream: np.ndarray[Any, np.dtype[Any]], length: int) -> list[float]:
    """Mean losses (trunk, first draft, second draft) over the held-out stream."""
    count = len(stream) // (length + 1)
    rows = torch.from_numpy(stream[: count * (length + 1)]).view(count, length + 1)
    sums = [torch.stack(model.losses(part[:, :-1], part[:, 1:], len(part))) * len(part) for part in rows.split(8)]
    for layer in model.moe_layers():
        layer.load.zero_()
    return [float(x) for x in torch.stack(sums).sum(0) / count]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus-dir", type=Path, required=True, help="folder with corpus.jsonl")
    parser.add_argument("--work-dir", type=Path, required=True, help="receives tokenizer.json and checkpoints")
    parser.add_argument("--out", type=Path, help="GGUF file to write at the end")
    for name in ("steps", "seed", "batch", "length", "threads"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Recipe, name))
    parser.add_argument("--learning-rate", type=float, default=Recipe.learning_rate)
    arguments = vars(parser.parse_args())
    corpus_dir, work_dir, out = (arguments.pop(name) for name in ("corpus_dir", "work_dir", "out"))
    recipe, config = Recipe(**arguments), TinyConfig()
    keep_freed_memory()
    torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    work_dir.mkdir(parents=True, exist_ok=True)
    documents = read_corpus(corpus_dir)
    tokenizer = tokenizer_for(documents, config.vocab_size, work_dir / "tokenizer.json")
    stream = token_stream(tokenizer, [d for d in documents if not d["held_out"]], recipe.seed)
    held_out = token_stream(tokenizer, [d for d in documents if d["held_out"]], recipe.seed)
    model = TinyGlm(config)
    num_parameters = sum(p.numel() for p in model.parameters())
    print(
        f"{num_parameters / 1e6:.2f} M parameters, {len(stream) / 1e6:.2f} M tokens, {len(held_out)} held out",
        recipe,
        flush=True,
    )
    train(model, Batches(stream, recipe), recipe, work_dir)
    print("held out: trunk, mtp, second", held_out_losses(model, held_out, recipe.length))
    if out is not None:
        from tools.tiny_gguf import write_gguf

        write_gguf(model, tokenizer, out)


if __name__ == "__main__":
    main()
