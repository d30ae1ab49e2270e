"""Models that nobody has written kernels for: a GPT in plain torch, and GPT-2 of transformers."""

from __future__ import annotations

import importlib
import importlib.util

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geomfast.testbed.models.scales import Scale


class Block(nn.Module):
    """Pre-norm attention and MLP."""

    def __init__(self, scale: Scale):
        super().__init__()
        d, self.heads = scale.d_model, scale.heads
        self.norm_1, self.norm_2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.mlp = nn.Sequential(nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d))

    def forward(self, x: Tensor) -> Tensor:
        n, t, d = x.shape
        parts = self.qkv(self.norm_1(x)).split(d, -1)
        q, k, v = (part.view(n, t, self.heads, -1).transpose(1, 2) for part in parts)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(n, t, d))
        return x + self.mlp(self.norm_2(x))


class PlainGPT(nn.Module):
    """(N, T) ids -> (N, T, V) logits, with a head of its own."""

    def __init__(self, scale: Scale, context: int):
        super().__init__()
        d = scale.d_model
        self.tokens = nn.Embedding(scale.vocabulary, d)
        self.positions = nn.Embedding(context, d)
        self.blocks = nn.Sequential(*(Block(scale) for _ in range(scale.layers)))
        self.norm, self.head = nn.LayerNorm(d), nn.Linear(d, scale.vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        return self.head(self.norm(self.blocks(x)))


class Logits(nn.Module):
    """A model of transformers, as logits of ids."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model(input_ids=tokens, use_cache=False).logits


def gpt2(scale: Scale, context: int) -> nn.Module | None:
    """GPT-2 of these sizes with random weights; None where transformers is not installed."""
    if not importlib.util.find_spec("transformers"):
        return None
    library = importlib.import_module("transformers")
    config = library.GPT2Config(
        vocab_size=scale.vocabulary, n_positions=context, n_embd=scale.d_model,
        n_layer=scale.layers, n_head=scale.heads, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Logits(library.GPT2LMHeadModel(config))
