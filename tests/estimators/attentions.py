"""Small models with attentions whose layouts are known, every weight of which counts."""

import pytest
import torch
from torch import nn

from geomfast.testbed.models.gpt import GPT
from geomfast.testbed.models.scales import Scale
from tests import cases

NAMES = ["ours", "gpt2", "neox", "llama"]
IDS = torch.randint(0, 7, (5, 6), generator=cases.generator(1))


class Encoder(nn.Module):
    """Self-attention by torch's own module."""

    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(7, 12)
        self.attention = nn.MultiheadAttention(12, 3, batch_first=True)
        self.out = nn.Linear(12, 7)

    def forward(self, ids):
        x = self.tokens(ids)
        return self.out(x + self.attention(x, x, x, need_weights=False)[0])


def ours():
    return GPT(Scale("tiny", 2, 12, 3, 1e-3, 7, 6), 0), "blocks.1", "attention_out"


def torchs():
    return Encoder(), "attention", None


def hugging_face(name):
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 7, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3}
    sizes |= {"intermediate_size": 16, "attn_implementation": "eager", "bos_token_id": 1}
    sizes |= {"eos_token_id": 1, "pad_token_id": 0, "max_position_embeddings": 8}
    if name == "gpt2":
        made = transformers.GPT2LMHeadModel(
            transformers.GPT2Config(
                vocab_size=7, n_embd=12, n_layer=2, n_head=3, n_positions=8, bos_token_id=1,
                eos_token_id=1, attn_implementation="eager",
            )
        )  # fmt: skip
        return made.eval(), "transformer.h.1.attn", "c_proj"
    if name == "neox":
        made = transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**sizes))
        return made.eval(), "gpt_neox.layers.1.attention", "dense"
    if name == "grouped":
        sizes |= {"hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2}
    made = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, attention_bias=True))
    return made.eval(), "model.layers.1.self_attn", "o_proj"


def made(name):
    """A model whose every weight counts, the name of an attention, and of its output projection."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, attention, out = {"ours": ours, "torch": torchs}.get(
            name, lambda: hugging_face(name)
        )()
        with torch.no_grad():
            for p in model.parameters():
                p += 0.3 * torch.randn_like(p)
    return model, attention, out
