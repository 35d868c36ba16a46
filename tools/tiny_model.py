"""GLM's mixture-of-experts architecture in small, for training and for measuring: plain PyTorch.

Shapes: B sequences, T positions, D hidden, H query heads, G KV heads, C head size, E experts, K experts per row,
F expert FFN, V vocabulary, R rows (B x T flattened). The MTP block is trained with the trunk.
"""

# mypy: allow-subclassing-any
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class TinyConfig:
    """Sizes of the model; the names are those of the GGUF keys."""

    vocab_size: int = 4096
    hidden: int = 256
    num_dense: int = 1
    num_moe: int = 4
    num_heads: int = 8
    num_kv_heads: int = 2
    head_size: int = 64
    rope_dims: int = 32
    rope_base: float = 1e4
    dense_ffn: int = 768
    expert_ffn: int = 256
    num_experts: int = 16
    num_used: int = 4
    routed_scale: float = 1.8
    norm_eps: float = 1e-5
    context: int = 4096

    @property
    def num_layers(self) -> int:
        return self.num_dense + self.num_moe


class Norm(nn.Module):
    """RMSNorm over the last dimension."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x.float(), self.weight.shape, self.weight, self.eps)


def rope_table(config: TinyConfig, num_positions: int) -> Tensor:
    """Cosines and sines (2, T, rope_dims / 2) of the rotated pairs."""
    exponents = torch.arange(0, config.rope_dims, 2, dtype=torch.float64) / config.rope_dims
    angles = torch.arange(num_positions, dtype=torch.float64)[:, None] * config.rope_base**-exponents
    return torch.stack([angles.cos(), angles.sin()]).float()


def rotate(x: Tensor, rope: Tensor) -> Tensor:
    """Rotate the first rope_dims of each head of x (B, heads, T, C), pairs half a rotation apart (NEOX)."""
    half = rope.shape[-1]
    first, second, rest = x.split([half, half, x.shape[-1] - 2 * half], dim=-1)
    cos, sin = rope[0], rope[1]
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)


class Attention(nn.Module):
    """Grouped-query attention: biases on q, k, v; norm per head before RoPE."""

    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        self.config = config
        width, kv_width = config.num_heads * config.head_size, config.num_kv_heads * config.head_size
        self.q = nn.Linear(config.hidden, width)
        self.k = nn.Linear(config.hidden, kv_width)
        self.v = nn.Linear(config.hidden, kv_width)
        self.output = nn.Linear(width, config.hidden, bias=False)
        self.q_norm = Norm(config.head_size, config.norm_eps)
        self.k_norm = Norm(config.head_size, config.norm_eps)
        self.past: tuple[Tensor, Tensor] | None = None  # keys and values (B, G, S, C) when decoding

    def forward(self, x: Tensor, rope: Tensor) -> Tensor:
        """x (B, T, D) -> (B, T, D); attends to `past` too, and appends to it, when there is one."""
        heads = (*x.shape[:2], -1, self.config.head_size)
        q = rotate(self.q_norm(self.q(x).view(heads)).transpose(1, 2), rope)
        k = rotate(self.k_norm(self.k(x).view(heads)).transpose(1, 2), rope)
        v = self.v(x).view(heads).transpose(1, 2)
        if self.past is not None:
            k, v = torch.cat([self.past[0], k], dim=2), torch.cat([self.past[1], v], dim=2)
            self.past = k, v
        shared = self.config.num_heads // self.config.num_kv_heads
        k, v = k.repeat_interleave(shared, 1), v.repeat_interleave(shared, 1)
        if self.past is None:
            mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            visible = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril(k.shape[2] - q.shape[2])
            mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=visible)
        out: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return out


class SwiGLU(nn.Module):
    """Dense feed-forward: down(silu(gate x) * up x); gate and up are rows of one matrix."""

    def __init__(self, hidden: int, ffn: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(hidden, 2 * ffn, bias=False)
        self.down = nn.Linear(ffn, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        out: Tensor = self.down(functional.silu(gate) * up)
        return out


class Experts(nn.Module):
    """Routed experts and the shared one, with the sigmoid router and its correction bias."""

    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        self.config = config
        e, d, f = config.num_experts, config.hidden, config.expert_ffn
        self.router = nn.Linear(d, e, bias=False)
        self.gate_up = nn.Parameter(torch.empty(e, 2 * f, d))
        self.down = nn.Parameter(torch.empty(e, d, f))
        self.shared = SwiGLU(d, f)
        self.bias: Tensor
        self.register_buffer("bias", torch.zeros(e))
        self.load = torch.zeros(e)  # rows per expert of the last forwards, for `balance`
        self.chosen = torch.zeros(0, config.num_used, dtype=torch.long)  # (R, K) of the last forward

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, D) -> (B, T, D): rows sorted by expert, one matrix product per expert."""
        rows = x.flatten(0, -2)
        scores = torch.sigmoid(self.router(rows).float())
        chosen = torch.topk(scores.detach() + self.bias, self.config.num_used, dim=-1).indices
        weights = scores.gather(1, chosen)
        weights = weights / weights.sum(-1, keepdim=True) * self.config.routed_scale
        order = chosen.flatten().argsort(stable=True)
        counts = torch.bincount(chosen.flatten(), minlength=self.config.num_experts)
        self.load, self.chosen = self.load + counts, chosen
        source = order // self.config.num_used
        parts = []
        grouped = rows.index_select(0, source).split(counts.tolist())
        for part, gate_up, down in zip(grouped, self.gate_up.unbind(0), self.down.unbind(0), strict=True):
            gate, up = functional.linear(part, gate_up).chunk(2, dim=-1)
            parts.append(functional.linear(functional.silu(gate) * up, down))
        routed = torch.cat(parts) * weights.flatten().index_select(0, order)[:, None]
        mixed = torch.zeros_like(rows, dtype=routed.dtype).index_add(0, source, routed)
        return (mixed + self.shared(rows)).view_as(x)

    def balance(self, rate: float) -> float:
        """Move the bias by `rate` against the load since the last call; returns the heaviest load / the mean."""
        mean = self.load.mean()
        self.bias += rate * torch.sign(mean - self.load)
        ratio = float(self.load.max() / mean)
        self.load = torch.zeros_like(self.load)
        return ratio


class Block(nn.Module):
    """One decoder layer."""

    def __init__(self, config: TinyConfig, moe: bool) -> None:
        super().__init__()
        self.attn_norm = Norm(config.hidden, config.norm_eps)
        self.attn = Attention(config)
        self.ffn_norm = Norm(config.hidden, config.norm_eps)
        self.ffn = Experts(config) if moe else SwiGLU(config.hidden, config.dense_ffn)

    def forward(self, x: Tensor, rope: Tensor) -> Tensor:
        x = x + self.attn(self.attn_norm(x), rope)
        out: Tensor = x + self.ffn(self.ffn_norm(x))
        return out


class MtpBlock(nn.Module):
    """The block that predicts one token further from the trunk's normed state (or from its own last state)."""

    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        self.enorm = Norm(config.hidden, config.norm_eps)
        self.hnorm = Norm(config.hidden, config.norm_eps)
        self.eh_proj = nn.Linear(2 * config.hidden, config.hidden, bias=False)
        self.block = Block(config, moe=True)
        self.shared_head_norm = Norm(config.hidden, config.norm_eps)

    def forward(self, embedded: Tensor, state: Tensor, rope: Tensor) -> Tensor:
        """Embedding of x_p and h_{p-1}, both (B, T, D) -> g_p (B, T, D); rope belongs to the positions p."""
        u = self.eh_proj(torch.cat([self.enorm(embedded), self.hnorm(state)], dim=-1))
        out: Tensor = self.shared_head_norm(self.block(u, rope))
        return out


class TinyGlm(nn.Module):
    """Trunk, head and MTP block."""

    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.hidden)
        self.blocks = nn.ModuleList(Block(config, moe=i >= config.num_dense) for i in range(config.num_layers))
        self.output_norm = Norm(config.hidden, config.norm_eps)
        self.head = nn.Linear(config.hidden, config.vocab_size, bias=False)
        self.mtp = MtpBlock(config)
        self.rope: Tensor
        self.register_buffer("rope", rope_table(config, config.context), persistent=False)
        self.initialize()

    def initialize(self) -> None:
        """Normal weights of 1 / sqrt(inputs); what writes to the residual stream is smaller by sqrt(2 layers)."""
        for name, weight in self.named_parameters():
            if weight.dim() < 2:
                if name.endswith("bias"):
                    nn.init.zeros_(weight)
                continue
            std = 0.5 * weight.shape[-1] ** -0.5
            if "embedding" in name:
                std = 0.25  # more than what the first blocks add: the trunk must see rare tokens too
            elif "router" in name:
                std = 0.02
            elif name.endswith(("output.weight", "down.weight", "down")):
                std *= (2 * self.config.num_layers) ** -0.5
            nn.init.normal_(weight, std=std)

    def moe_layers(self) -> list[Experts]:
        return [module for module in self.modules() if isinstance(module, Experts)]

    def start_decoding(self) -> None:
        """Give every attention an empty cache for one sequence."""
        for module in self.modules():
            if isinstance(module, Attention):
                empty = torch.zeros(1, self.config.num_kv_heads, 0, self.config.head_size)
                module.past = empty, empty

    def trunk(self, tokens: Tensor, first: int = 0) -> Tensor:
        """Token ids (B, T) at positions first.. -> h (B, T, D), after the final norm."""
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, self.rope[:, first : first + tokens.shape[1]])
        out: Tensor = self.output_norm(x)
        return out

    def draft(self, tokens: Tensor, state: Tensor, first: int) -> Tensor:
        """MTP states g (B, T, D) for tokens at positions first.. and the states of the positions before them."""
        rope = self.rope[:, first : first + tokens.shape[1]]
        out: Tensor = self.mtp(self.embedding(tokens), state, rope)
        return out

    def losses(self, tokens: Tensor, targets: Tensor, num_recycled: int) -> tuple[Tensor, Tensor, Tensor]:
        """Cross entropies of the trunk, of the first draft, and of the second one on `num_recycled` sequences."""

        def cross_entropy(states: Tensor, wanted: Tensor) -> Tensor:
            return functional.cross_entropy(self.head(states).flatten(0, 1).float(), wanted.flatten())

        h = self.trunk(tokens)
        g = self.draft(tokens[:, 1:], h[:, :-1], first=1)
        second = torch.zeros(())
        if num_recycled:
            again = self.draft(tokens[:num_recycled, 2:], g[:num_recycled, :-1], first=2)
            second = cross_entropy(again, targets[:num_recycled, 2:])
        return cross_entropy(h, targets), cross_entropy(g, targets[:, 1:]), second
