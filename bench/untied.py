"""geomfast's GPT in the form that Opacus can differentiate per sample.

Opacus hooks modules: a parameter used outside one (the position table, the tied head) would have
its gradients missed, and a table looked up without a batch axis gives wrong ones. Hence a head of
its own, positions looked up once per sample, and (N, T, d) throughout. All else is as in
`geomfast.testbed.models.gpt`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geomfast.testbed.models.gpt import Block
from geomfast.testbed.models.scales import Scale


class UntiedBlock(Block):
    """A block of our own GPT on rows of one length, whose batch axis the peers want to see."""

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """(N, T, d) -> (N, T, d)."""
        qkv = self.attention_in(self.norm_1(x)).unflatten(2, (3, self.heads, -1))
        x = x + self.attention_out(self._attend(qkv).flatten(2))
        return x + self.mlp_out(F.gelu(self.mlp_in(self.norm_2(x))))


class UntiedGPT(nn.Module):
    """(N, T) tokens -> (N, T, vocabulary) logits; `vocabulary * d` more parameters than GPT."""

    def __init__(self, scale: Scale, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.tokens = nn.Embedding(scale.vocabulary, scale.d_model)
            self.positions = nn.Embedding(scale.context, scale.d_model)
            self.blocks = nn.Sequential(
                *(UntiedBlock(scale.d_model, scale.heads) for _ in range(scale.layers))
            )
            self.norm = nn.LayerNorm(scale.d_model)
            self.head = nn.Linear(scale.d_model, scale.vocabulary, bias=False)
            for name, parameter in self.named_parameters():
                if parameter.dim() == 2:
                    nn.init.normal_(parameter, 0.0, 0.02)
                elif name.endswith("bias"):
                    nn.init.zeros_(parameter)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of the next token at every position."""
        # expand_as, not expand: so that the batch axis is seen to come from the batch.
        positions = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
        x = self.blocks(self.tokens(tokens) + self.positions(positions))
        return self.head(self.norm(x))
