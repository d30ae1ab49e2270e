"""The GPT: exact sizes, causality, activations on request, no effect on global state."""

import pytest
import torch

from geomfast.testbed.models.gpt import GPT
from geomfast.testbed.models.scales import SCALES
from geomfast.testbed.tasks.vocabulary import PAD

NANO = SCALES["nano"]


@pytest.mark.parametrize("name", ["nano", "micro", "small"])
def test_the_size_formula_counts_every_parameter(name: str) -> None:
    model = GPT(SCALES[name])
    assert sum(p.numel() for p in model.parameters()) == SCALES[name].parameters


def test_sizes_are_the_published_ones() -> None:
    sizes = [scale.parameters for scale in SCALES.values()]
    assert sizes == [404_992, 3_175_936, 10_672_128, 25_252_864, 85_105_152, 151_222_272]


def test_no_position_sees_a_later_one() -> None:
    model = GPT(NANO, seed=1)
    tokens = torch.arange(20).remainder(24).view(1, 20)
    changed = tokens.clone()
    changed[0, 12:] = PAD
    with torch.no_grad():
        before, after = model(tokens), model(changed)
    assert torch.equal(before[0, :12], after[0, :12])
    assert not torch.allclose(before[0, 12:], after[0, 12:])


def test_collecting_activations_changes_nothing_and_returns_every_layer() -> None:
    model = GPT(SCALES["micro"], seed=1)
    tokens = torch.arange(12).view(2, 6)
    collected: list[torch.Tensor] = []
    with torch.no_grad():
        logits = model(tokens, collect=collected)
        assert torch.equal(logits, model(tokens))
    assert [tuple(a.shape) for a in collected] == [(2, 6, 256)] * 5
    # The last entry is the normed state the logits are read from.
    assert torch.allclose(logits, collected[-1] @ model.tokens.weight.T, atol=1e-6)


def test_the_embedding_is_tied() -> None:
    model = GPT(NANO)
    assert not any("head" in name for name, _ in model.named_parameters())
    model(torch.zeros(1, 3, dtype=torch.long)).sum().backward()
    assert model.tokens.weight.grad is not None
    # Rows never fed in get gradient through the output side only.
    assert model.tokens.weight.grad[5].abs().sum() > 0


def test_the_seed_decides_and_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(123)
    before = torch.get_rng_state()
    first, same, other = GPT(NANO, seed=3), GPT(NANO, seed=3), GPT(NANO, seed=4)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first.tokens.weight, same.tokens.weight)
    assert not torch.equal(first.tokens.weight, other.tokens.weight)


def test_initial_deviations() -> None:
    model = GPT(SCALES["micro"])
    assert float(model.tokens.weight.detach().std()) == pytest.approx(0.02, rel=0.05)
    mixed = model.blocks[0].attention_out.weight.detach()
    assert float(mixed.detach().std()) == pytest.approx(0.02 / (2 * 4) ** 0.5, rel=0.05)
    assert float(model.blocks[0].mlp_in.bias.detach().abs().max()) == 0.0
