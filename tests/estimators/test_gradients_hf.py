"""Gram matrices of per-sample gradients of Hugging Face models, tied and untied."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from geomfast.estimators.gradients import gradient_gram
from geomfast.estimators.per_sample.watch import Watch
from tests.estimators.models import N, exact_gram

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")  # of the library, at import and construction

SIZES = {
    "vocab_size": 37,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
}


def made(family: str) -> nn.Module:
    torch.manual_seed(0)
    if family == "GPT2":
        config = transformers.GPT2Config(
            vocab_size=37, n_embd=16, n_layer=2, n_head=2, n_positions=32
        )
        model = transformers.GPT2LMHeadModel(config)  # Conv1D, tied
        assert model.lm_head.weight is model.transformer.wte.weight
    elif family == "GPTNeoX":
        model = transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**SIZES))
    else:
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES))  # RMSNorm
    return model.eval()


def next_token(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    tokens = batch["input_ids"]
    logits = model(input_ids=tokens).logits[:, :-1].transpose(1, 2)
    return F.cross_entropy(logits, tokens[:, 1:], reduction="none").sum(1)


@pytest.mark.parametrize("family", ["GPT2", "GPTNeoX", "Llama"])
@pytest.mark.parametrize("length", [N, 9])
def test_against_stored_gradients(family, length):
    model = made(family)
    batch = {"input_ids": torch.randint(0, 37, (N, length))}
    with Watch(dict(model.named_parameters()), list(batch.values()), N) as watch:
        next_token(model, batch)
    assert not watch.unhandled  # all of it by rules, nothing one by one
    single = gradient_gram(model, next_token, batch)
    exact = exact_gram(model.double(), next_token, batch)
    largest = exact.abs().max()
    assert (single - exact).abs().max() <= 1e-5 * largest
    assert (gradient_gram(model, next_token, batch) - exact).abs().max() <= 1e-10 * largest
