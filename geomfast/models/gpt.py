"""One GPT, written plainly: pre-norm decoder, learned positions, tied embedding.

Activations are asked for by handing ``forward`` a list to fill; there are no hooks, so a
training step pays nothing for being measurable.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geomfast.models.scales import Scale


class Block(nn.Module):
    """Causal self-attention and an MLP, each after a LayerNorm and added to the stream."""

    def __init__(self, d_model: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1 = nn.LayerNorm(d_model)
        self.attention_in = nn.Linear(d_model, 3 * d_model)
        self.attention_out = nn.Linear(d_model, d_model)
        self.norm_2 = nn.LayerNorm(d_model)
        self.mlp_in = nn.Linear(d_model, 4 * d_model)
        self.mlp_out = nn.Linear(4 * d_model, d_model)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, d) -> (N, T, d)."""
        n, t, d = x.shape
        q, k, v = (
            part.view(n, t, self.heads, d // self.heads).transpose(1, 2)
            for part in self.attention_in(self.norm_1(x)).split(d, dim=-1)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attention_out(mixed.transpose(1, 2).reshape(n, t, d))
        return x + self.mlp_out(F.gelu(self.mlp_in(self.norm_2(x))))


class GPT(nn.Module):
    """A GPT-2-style decoder over the task vocabulary.

    Args:
        scale: width, depth and table sizes.
        seed: initialisation seed; the global random state is neither read nor changed.
    """

    def __init__(self, scale: Scale, seed: int = 0) -> None:
        super().__init__()
        self.scale = scale
        # torch's layers fill themselves from the global generator before we fill them.
        with torch.random.fork_rng(devices=[]):
            self.tokens = nn.Embedding(scale.vocabulary, scale.d_model)
            self.positions = nn.Parameter(torch.empty(scale.context, scale.d_model))
            self.blocks = nn.ModuleList(
                Block(scale.d_model, scale.heads) for _ in range(scale.layers)
            )
            self.norm = nn.LayerNorm(scale.d_model)
        self._initialise(seed)

    @torch.no_grad()
    def _initialise(self, seed: int) -> None:
        """GPT-2's initialisation: N(0, 0.02), residual outputs scaled down by depth."""
        generator = torch.Generator().manual_seed(seed)
        residual = 0.02 / math.sqrt(2 * self.scale.layers)
        for name, parameter in self.named_parameters():
            if "norm" in name:
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)
            elif name.endswith("bias"):
                parameter.zero_()
            else:
                deviation = residual if "_out." in name else 0.02
                parameter.normal_(0.0, deviation, generator=generator)

    def forward(self, tokens: Tensor, collect: list[Tensor] | None = None) -> Tensor:
        """Next-token logits.

        Args:
            tokens: (N, T) ids, T at most the context; padding belongs on the right, where
                causal attention keeps it from reaching any real token.
            collect: a list that receives the (N, T, d) output of every block and then the
                final normed state.

        Returns:
            (N, T, vocabulary) logits.
        """
        x = self.tokens(tokens) + self.positions[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
            if collect is not None:
                collect.append(x)
        x = self.norm(x)
        if collect is not None:
            collect.append(x)
        return F.linear(x, self.tokens.weight)
