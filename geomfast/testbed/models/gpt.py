"""One GPT, written plainly: pre-norm decoder, tied embedding, learned or relative positions.

Activations are asked for by handing ``forward`` a list to fill; there are no hooks, so a
training step pays nothing for being measurable.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geomfast.testbed.models.positions import Relative, attention, relative_to
from geomfast.testbed.models.scales import Scale

#: (rows, tokens per row) of each bucket whose tokens lie one after the other in a flat tensor.
Shapes = list[tuple[int, int]]


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

    def forward(self, x: Tensor, shapes: Shapes, relative: Relative = None) -> Tensor:
        """(M, d) -> (M, d): everything acts on single tokens but attention, which needs rows.

        Args:
            x: of the shapes' tokens, row by row.
            shapes: of the buckets.
            relative: see :func:`geomfast.testbed.models.positions.relative_to`.
        """
        d = x.shape[1]
        qkv = self.attention_in(self.norm_1(x))
        split = (3, self.heads, d // self.heads)
        mixed = [
            self._attend(rows.view(n, t, *split), relative).reshape(n * t, d)
            for rows, (n, t) in zip(qkv.split([n * t for n, t in shapes]), shapes, strict=True)
        ]
        x = x + self.attention_out(torch.cat(mixed))
        return x + self.mlp_out(F.gelu(self.mlp_in(self.norm_2(x))))

    @staticmethod
    def _attend(qkv: Tensor, relative: Relative = None) -> Tensor:
        """Causal attention inside each row: (N, T, 3, heads, d/heads) -> (N, T, heads, d/heads)."""
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        return attention(q, k, v, relative).transpose(1, 2)


class GPT(nn.Module):
    """A GPT-2-style decoder over the task vocabulary.

    Args:
        scale: width, depth, table sizes and the encoding of positions.
        seed: initialisation seed; the global random state is neither read nor changed.

    Attributes:
        positions: the (context, d) table of learned positions; None with another encoding.

    It is made on the CPU, whatever the default device. With a seed, all that two encodings have in
    common begins alike.
    """

    def __init__(self, scale: Scale, seed: int = 0) -> None:
        super().__init__()
        self.scale = scale
        # torch's layers fill themselves from the global generator before we fill them. On the CPU,
        # whatever the default device: its generator is forked, and a seed means the same weights.
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            self.tokens = nn.Embedding(scale.vocabulary, scale.d_model)
            self.positions: nn.Parameter | None = None
            if scale.positions == "learned":
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
        if self.positions is None:
            # Drawn first where there is one, so that what follows is the same.
            table = torch.empty(self.scale.context, self.scale.d_model, device="cpu")
            table.normal_(0.0, 0.02, generator=generator)
        for name, parameter in self.named_parameters():
            if "norm" in name:
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)
            elif name.endswith("bias"):
                parameter.zero_()
            else:
                deviation = residual if "_out." in name else 0.02
                parameter.normal_(0.0, deviation, generator=generator)

    def forward(
        self,
        tokens: Tensor,
        collect: list[Tensor] | None = None,
        starts: Tensor | None = None,
    ) -> Tensor:
        """Next-token logits.

        Args:
            tokens: (N, T) ids, T at most the context of a table of positions; padding belongs on
                the right, where causal attention keeps it from reaching any real token.
            collect: a list that receives the (N, T, d) output of every block and then the
                final normed state.
            starts: (N,) the first position of every row in the table of positions; 0 for all
                where there are none. Without a table they do not matter.

        Returns:
            (N, T, vocabulary) logits.
        """
        flat: list[Tensor] | None = None if collect is None else []
        logits = self.forward_buckets([tokens], flat, None if starts is None else [starts])
        if collect is not None and flat is not None:
            collect += [x.unflatten(0, tokens.shape) for x in flat]
        return logits.unflatten(0, tokens.shape)

    def forward_buckets(
        self,
        buckets: list[Tensor],
        collect: list[Tensor] | None = None,
        starts: list[Tensor] | None = None,
    ) -> Tensor:
        """Forward pass for rows of several lengths, without padding them to one length.

        Args:
            buckets: (N_i, T_i) ids each.
            collect: as in :meth:`forward`, but receives (M, d) tensors.
            starts: as in :meth:`forward`, (N_i,) each.

        Returns:
            (M, vocabulary) logits of the buckets' M = sum N_i T_i tokens, row by row.
        """
        shapes = [(tokens.shape[0], tokens.shape[1]) for tokens in buckets]
        firsts = starts or [None] * len(buckets)
        embedded = [self._embed(*bucket) for bucket in zip(buckets, firsts, strict=True)]
        x = torch.cat([rows.flatten(0, 1) for rows in embedded])
        relative = relative_to(self.scale, max((t for _, t in shapes), default=0), x)
        for block in self.blocks:
            x = block(x, shapes, relative)
            if collect is not None:
                collect.append(x)
        x = self.norm(x)
        if collect is not None:
            collect.append(x)
        return F.linear(x, self.tokens.weight)

    def _embed(self, tokens: Tensor, starts: Tensor | None) -> Tensor:
        length = tokens.shape[1]
        if self.positions is None:
            return self.tokens(tokens)
        if starts is None:
            return self.tokens(tokens) + self.positions[:length]
        # Padding may lie beyond the table; no real token sees it.
        at = starts[:, None] + torch.arange(length, device=tokens.device)
        at = at.clamp_max(self.scale.context - 1)
        return self.tokens(tokens) + F.embedding(at, self.positions)
