"""Weights that make a model say a text of chosen character: embedding, head, routers and the MTP block's projection.

The text counts: token t is followed by t + 2. Each token has a twin, t ^ 1, which counts in the other half and uses the
same experts; a wrong draft is the twin of the right one. Hidden dimensions are divided:

    routing   one block of E for each layer with experts (a few share one), a large value for each expert that is used
    code      random signs that say which token it is; the head of a token reads the code of the token before it
    drafts    M registers: the codes from which the MTP block's 1st, 2nd, ... draft is read, right or wrong
    junk      where the MTP block puts the embedding of its own token, which nothing reads

The other weights are random and add little to the residual stream. In the MTP block the projection shifts the hidden
state's registers by one: the first becomes the code, the second the first. So the drafts from a token t are what the
embedding of t says, at every depth, and how sure the block is of them is the size of the register.

Shapes: V tokens, D hidden, E experts, K experts per token, M drafts, G routing blocks, N dimensions of a code.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

ROUTING_VALUE = 3.0  # of an expert that is used, against 0
CODE_LOGIT = 20.0  # of the trunk's next token, against noise about 0
MOST_ROUTING_BLOCKS = 3


@dataclass(frozen=True)
class Text:
    """A text's character, and the weights that give it."""

    hidden: int  # D
    num_tokens: int  # ordinary ones, that the text is made of
    num_experts: int  # E
    num_used: int  # K
    num_routers: int  # layers with experts, the MTP block's included
    acceptance: tuple[float, ...]  # for each of M drafts: chance that it is right if those before it are
    overlap: float  # share of a token's experts that the next one uses too
    variation: float  # standard deviation of the drafts' log-odds from token to token; the block knows them
    seed: int

    @property
    def num_drafts(self) -> int:
        return len(self.acceptance)

    @property
    def num_blocks(self) -> int:
        return min(MOST_ROUTING_BLOCKS, self.num_routers)

    @property
    def code_size(self) -> int:
        """N."""
        return (self.hidden - self.num_blocks * self.num_experts) // (self.num_drafts + 2)

    @property
    def even_tokens(self) -> int:
        """Tokens of the text: whole pairs of twins."""
        return self.num_tokens // 2 * 2

    def dimensions(self, name: str, index: int = 0) -> slice:
        """Of a part of the hidden state: `routing` (index: block), `code`, `draft` (index: from 0) or `junk`."""
        routing, size = self.num_blocks * self.num_experts, self.code_size
        if name == "routing":
            return slice(index * self.num_experts, (index + 1) * self.num_experts)
        at = {"code": 0, "draft": 1 + index, "junk": 1 + self.num_drafts}[name]
        return slice(routing + at * size, routing + (at + 1) * size)

    def next(self, token_ids: np.ndarray, steps: int = 1) -> np.ndarray:
        """Tokens that follow, `steps` further on."""
        return (token_ids + 2 * steps) % self.even_tokens

    @cached_property
    def codes_VN(self) -> np.ndarray:
        rng = np.random.default_rng(self.seed)
        signs: np.ndarray = rng.integers(0, 2, (self.even_tokens, self.code_size), np.int8) * 2 - 1
        return signs

    @cached_property
    def experts_VGK(self) -> np.ndarray:
        """Experts of each token; twins have the same."""
        rng = np.random.default_rng(self.seed + 1)
        G, E, K, pairs = self.num_blocks, self.num_experts, self.num_used, self.even_tokens // 2
        out = np.empty((pairs, G, K), np.int64)
        out[0] = np.argsort(rng.random((G, E)), axis=1)[:, :K]
        blocks_G1 = np.arange(G)[:, None]
        for i in range(1, pairs):
            keys_GE = rng.random((G, E))
            stays_GK = rng.random((G, K)) < self.overlap
            keys_GE[blocks_G1, out[i - 1]] = np.where(stays_GK, -1.0, 2.0)  # first of all, or last
            out[i] = np.argpartition(keys_GE, K - 1, axis=1)[:, :K]
        return np.repeat(out, 2, axis=0)

    @cached_property
    def chances_VM(self) -> np.ndarray:
        """How likely each draft from each token is to be right, if those before it are."""
        rng = np.random.default_rng(self.seed + 2)
        noise = self.variation * rng.standard_normal((self.even_tokens, self.num_drafts))
        if not self.variation:
            return np.tile(np.array(self.acceptance), (self.even_tokens, 1))
        sample = np.sort(noise[:2000], axis=0)
        odds = []
        for j, mean in enumerate(self.acceptance):
            low, high = -15.0, 15.0
            for _ in range(50):
                middle = (low + high) / 2
                low, high = (middle, high) if _sigmoid(middle + sample[:, j]).mean() < mean else (low, middle)
            odds.append(low)
        return _sigmoid(np.array(odds) + noise)

    @cached_property
    def right_VM(self) -> np.ndarray:
        """Which drafts from each token are right."""
        rng = np.random.default_rng(self.seed + 3)
        return rng.random(self.chances_VM.shape) < self.chances_VM

    @cached_property
    def sizes_VM(self) -> np.ndarray:
        """Size of each register, such that the softmax over drafts comes to the chances.

        What scales a register on its way is the norms: of the state that it leaves with, and of each pass.
        """
        N, K = self.code_size, self.num_used
        p = self.chances_VM.clip(0.02, 0.995)
        noise = np.log(self.even_tokens) + 0.5 * (0.6 * CODE_LOGIT) ** 2 / N  # log of the sum over all other tokens
        wanted_VM = np.log(p / (1 - p)) + noise
        sizes_VM = np.full(p.shape, 0.6)
        routing = K * ROUTING_VALUE**2
        for _ in range(30):
            energy = N * (1 + (sizes_VM**2).sum(axis=1)) + self.num_blocks * routing
            scale = np.sqrt(self.hidden / energy)  # of the trunk's normed state, and of the embedding's
            factor = scale.copy()
            for j in range(self.num_drafts):
                left = N * (factor[:, None] * sizes_VM[:, j:]) ** 2
                factor = factor / np.sqrt((left.sum(axis=1) + (N + routing) * scale**2) / self.hidden)
                sizes_VM[:, j] *= (wanted_VM[:, j] / (self.head_size * N * factor * sizes_VM[:, j])) ** 0.5
        return sizes_VM

    @property
    def head_size(self) -> float:
        """Size of the head's weights: the trunk's next token gets about CODE_LOGIT."""
        return CODE_LOGIT / self.code_size

    def embedding(self, token_ids: np.ndarray) -> np.ndarray:
        """float32 (len(token_ids), D); tokens that are not part of the text get the code of none."""
        out = np.zeros((len(token_ids), self.hidden), np.float32)
        rows = np.flatnonzero(token_ids < self.even_tokens)
        tokens = token_ids[rows]
        for block in range(self.num_blocks):
            first = self.dimensions("routing", block).start
            out[rows[:, None], first + self.experts_VGK[tokens, block]] = ROUTING_VALUE
        out[rows, self.dimensions("code")] = self.codes_VN[tokens]
        for j in range(self.num_drafts):
            drafted_from = self.next(tokens, j + 1) ^ ~self.right_VM[tokens, j]
            codes = self.codes_VN[drafted_from] * self.sizes_VM[tokens, j, None]
            out[rows, self.dimensions("draft", j)] = codes
        return out

    def head(self, token_ids: np.ndarray) -> np.ndarray:
        """float32 (len(token_ids), D): reads the code of the token before."""
        out = np.zeros((len(token_ids), self.hidden), np.float32)
        rows = np.flatnonzero(token_ids < self.even_tokens)
        before = self.next(token_ids[rows], -1)
        out[rows, self.dimensions("code")] = self.codes_VN[before] * self.head_size
        return out

    def router(self, index: int) -> np.ndarray:
        """float32 (E, D) of the index-th layer with experts; layers that share a block call the experts otherwise."""
        block = index % self.num_blocks
        order = np.random.default_rng(self.seed + 10 + index).permutation(self.num_experts)
        out = np.zeros((self.num_experts, self.hidden), np.float32)
        first = self.dimensions("routing", block).start
        out[order, first + np.arange(self.num_experts)] = 1.0
        return out

    def projection(self) -> np.ndarray:
        """float32 (D, 2 D) of the MTP block: embedding first, hidden state second."""
        out = np.zeros((self.hidden, 2 * self.hidden), np.float32)

        def connect(target: slice, source: slice, side: int) -> None:
            columns = np.arange(source.start, source.stop) + side * self.hidden
            out[np.arange(target.start, target.stop), columns] = 1.0

        block = self.dimensions("routing", (self.num_routers - 1) % self.num_blocks)
        connect(block, block, 0)
        connect(self.dimensions("junk"), self.dimensions("code"), 0)
        connect(self.dimensions("code"), self.dimensions("draft", 0), 1)
        for j in range(1, self.num_drafts):
            connect(self.dimensions("draft", j - 1), self.dimensions("draft", j), 1)
        return out


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-x)))
