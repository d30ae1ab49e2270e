"""C GPTs of one scale as one program: the same numbers as each alone, in products of batches.

All weights lie in one buffer, a member's in one row, so that the optimiser is one pass over memory.
Matrices come first in a row: AdamW decays them and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from geomfast.testbed.models.gpt import GPT, Shapes
from geomfast.testbed.models.positions import Relative, attention, relative_to
from geomfast.testbed.models.scales import Scale


class StackedGPT:
    """C members, each the GPT of its own seed.

    Attributes:
        scale: of every member.
        weights: (C, P) float32, P parameters in the order of ``names``.
        names: of the parameters as a GPT names them, matrices first.
        tables: names of those that tokens look up: of tokens, and of positions if they are learned.
        matrices: how many of the P numbers belong to matrices.
        parameters: by name, (C, ...) views of ``weights`` that gradients are taken of.

    Args:
        scale: of every member.
        seeds: of their initialisations.
        device: where they live.
    """

    def __init__(self, scale: Scale, seeds: Sequence[int], device: torch.device | str = "cpu"):
        self.scale = scale
        self.members = len(seeds)
        shapes = {name: p.shape for name, p in GPT(scale).named_parameters()}
        # sorted() is stable: matrices, then the others, each as in a GPT.
        self.names = sorted(shapes, key=lambda name: len(shapes[name]) < 2)
        self.tables = [name for name in ("tokens.weight", "positions") if name in shapes]
        self._shapes = [shapes[name] for name in self.names]
        self.matrices = sum(shape.numel() for shape in self._shapes if len(shape) >= 2)
        rows = [self._row(GPT(scale, seed)) for seed in seeds]
        size = sum(shape.numel() for shape in self._shapes)
        self.weights = torch.stack(rows).to(device) if rows else torch.empty(0, size, device=device)
        self.parameters = {
            name: x.requires_grad_()
            for name, x in zip(self.names, self.views(self.weights), strict=True)
        }

    @classmethod
    def of_rows(cls, scale: Scale, weights: Tensor, names: Sequence[str]) -> StackedGPT:
        """Members whose weights are rows of a buffer, in an order of the buffer's own.

        Args:
            scale: of every member.
            weights: (C, P) float32, which may be written to by others.
            names: of all parameters, in the order of a row.
        """
        made = cls(scale, ())
        shapes = dict(zip(made.names, made._shapes, strict=True))
        made.members, made.weights, made.names = len(weights), weights, list(names)
        made._shapes = [shapes[name] for name in names]
        made.parameters = dict(zip(names, made.views(weights), strict=True))
        return made

    def _row(self, model: GPT) -> Tensor:
        own = dict(model.named_parameters())
        return torch.cat([own[name].detach().flatten() for name in self.names])

    def views(self, buffer: Tensor) -> list[Tensor]:
        """A (C, P) buffer as one tensor (C, ...) for every parameter."""
        parts = buffer.detach().split([shape.numel() for shape in self._shapes], 1)
        pairs = zip(parts, self._shapes, strict=True)
        return [part.view(len(buffer), *shape) for part, shape in pairs]

    def member(self, i: int) -> GPT:
        """A GPT of its own with the weights of member ``i``."""
        model = GPT(self.scale).to(self.weights.device)
        model.load_state_dict(self._state(i))
        return model

    def states(self) -> Iterator[dict[str, Tensor]]:
        """Every member's weights in order, by name as a GPT has them; views, not copies."""
        return (self._state(i) for i in range(self.members))

    def _state(self, i: int) -> dict[str, Tensor]:
        return {name: x[i].detach() for name, x in self.parameters.items()}

    def forward(
        self,
        tokens: Tensor,
        collect: list[Tensor] | None = None,
        starts: Tensor | None = None,
    ) -> Tensor:
        """Next-token logits of every member.

        Args:
            tokens: (C, N, T) ids, as :meth:`GPT.forward` takes them of each.
            collect: a list that receives the (C, N, T, d) output of every block and then the
                final normed state.
            starts: (C, N) first positions, as :meth:`GPT.forward` takes them.

        Returns:
            (C, N, T, vocabulary) logits.
        """
        shape = tokens.shape[1:]
        flat: list[Tensor] | None = None if collect is None else []
        logits = self.forward_buckets([tokens], None if starts is None else [starts], flat)
        if collect is not None and flat is not None:
            collect += [x.unflatten(1, shape) for x in flat]
        return logits.unflatten(1, shape)

    def forward_buckets(
        self,
        buckets: list[Tensor],
        starts: list[Tensor] | None = None,
        collect: list[Tensor] | None = None,
        read: Tensor | None = None,
    ) -> Tensor:
        """Forward pass for rows of several lengths, without padding them to one length.

        Args:
            buckets: (C, N_i, T_i) ids each.
            starts: as in :meth:`forward`, (C, N_i) each.
            collect: as in :meth:`forward`, but receives (C, M, d) tensors.
            read: (A,) indices of the M = sum N_i T_i tokens whose logits are wanted; all without.

        Returns:
            (C, M or A, vocabulary) logits, row by row.
        """
        shapes = [(tokens.shape[1], tokens.shape[2]) for tokens in buckets]
        x = self._embed(buckets, starts)
        relative = relative_to(self.scale, max((t for _, t in shapes), default=0), x)
        for i in range(self.scale.layers):
            only = read if collect is None and i == self.scale.layers - 1 else None
            x = self._block(f"blocks.{i}.", x, shapes, relative, only)
            if collect is not None:
                collect.append(x)
        if read is not None and collect is not None:
            x = x.index_select(1, read)
        x = self._norm("norm", x)
        if collect is not None:
            collect.append(x)
        return torch.bmm(x, self.parameters["tokens.weight"].mT)

    def _block(
        self, name: str, x: Tensor, shapes: Shapes, relative: Relative, read: Tensor | None
    ) -> Tensor:
        """The last block's tokens that are not read need no more than be attended to."""
        qkv = self._linear(f"{name}attention_in", self._norm(f"{name}norm_1", x))
        rows = qkv.split([n * t for n, t in shapes], 1)
        mixed = [
            self._attend(part, *shape, relative) for part, shape in zip(rows, shapes, strict=True)
        ]
        attended = mixed[0] if len(mixed) == 1 else torch.cat(mixed, 1)
        if read is not None:
            x, attended = x.index_select(1, read), attended.index_select(1, read)
        x = x + self._linear(f"{name}attention_out", attended)
        hidden = F.gelu(self._linear(f"{name}mlp_in", self._norm(f"{name}norm_2", x)))
        return x + self._linear(f"{name}mlp_out", hidden)

    def _attend(self, qkv: Tensor, n: int, t: int, relative: Relative) -> Tensor:
        """Causal attention inside each row, (C, N T, 3 d) -> (C, N T, d): members are rows too."""
        heads, d = self.scale.heads, self.scale.d_model
        q, k, v = qkv.reshape(-1, t, 3, heads, d // heads).permute(2, 0, 3, 1, 4)
        mixed = attention(q, k, v, relative)
        return mixed.transpose(1, 2).reshape(self.members, n * t, d)

    def _linear(self, name: str, x: Tensor) -> Tensor:
        weight, bias = self.parameters[f"{name}.weight"], self.parameters[f"{name}.bias"]
        return torch.baddbmm(bias[:, None], x, weight.mT)

    def _norm(self, name: str, x: Tensor) -> Tensor:
        gain, bias = self.parameters[f"{name}.weight"], self.parameters[f"{name}.bias"]
        return torch.addcmul(bias[:, None], F.layer_norm(x, x.shape[-1:]), gain[:, None])

    def indices(self, buckets: list[Tensor], starts: list[Tensor] | None) -> list[Tensor]:
        """Which rows of all members' tables, one after the other, the tokens look up.

        Args:
            buckets, starts: as in :meth:`forward_buckets`.

        Returns:
            (C, M) of each of :attr:`tables`.
        """
        tokens = torch.cat([b.flatten(1) for b in buckets], 1)
        member = torch.arange(self.members, device=tokens.device)[:, None]
        tokens = tokens + member * self.scale.vocabulary
        if "positions" not in self.tables:
            return [tokens]
        places = []
        for i, bucket in enumerate(buckets):
            at = torch.arange(bucket.shape[2], device=bucket.device).expand_as(bucket)
            if starts is not None:
                # Padding may lie beyond the table; no real token sees it.
                at = (at + starts[i][..., None]).clamp_max(self.scale.context - 1)
            places.append(at.flatten(1))
        return [tokens, torch.cat(places, 1) + member * self.scale.context]

    def _embed(self, buckets: list[Tensor], starts: list[Tensor] | None) -> Tensor:
        tables = [self.parameters[name].flatten(0, 1) for name in self.tables]
        pairs = zip(self.indices(buckets, starts), tables, strict=True)
        x, *places = [F.embedding(index, table) for index, table in pairs]
        return x + places[0] if places else x
