"""Stacked GPTs: every member computes what its own GPT does, and no member sees another."""

from dataclasses import replace

import pytest
import torch

from geomfast.testbed.models.gpt import GPT
from geomfast.testbed.models.scales import POSITIONAL_ENCODINGS, Scale
from geomfast.testbed.models.stacked import StackedGPT

SCALE = Scale("2x16", 2, 16, 2, 1e-3, vocabulary=13, context=11)
SEEDS = (4, 0, 9)


def tokens(*shape: int) -> torch.Tensor:
    return torch.randint(13, shape, generator=torch.Generator().manual_seed(0))


def models(scale: Scale = SCALE) -> list[GPT]:
    return [GPT(scale, seed) for seed in SEEDS]


def with_positions(positions: str, heads: int = 2) -> Scale:
    return replace(SCALE, positions=positions, heads=heads)


@pytest.mark.parametrize("positions", POSITIONAL_ENCODINGS)
def test_initialisation_is_the_members_own(positions: str) -> None:
    scale = with_positions(positions)
    stacked = StackedGPT(scale, SEEDS)
    assert stacked.weights.shape == (3, scale.parameters)
    for i, model in enumerate(models(scale)):
        member = stacked.member(i).state_dict()
        assert all(torch.equal(member[name], p) for name, p in model.state_dict().items())
    # Of a row only the first numbers belong to matrices, and all of those do.
    decayed = sum(p.numel() for p in GPT(scale).parameters() if p.ndim >= 2)
    assert stacked.matrices == decayed
    gains = stacked.parameters["norm.weight"]
    assert gains.storage_offset() >= stacked.matrices


@pytest.mark.parametrize("with_starts", [False, True])
@pytest.mark.parametrize("positions", POSITIONAL_ENCODINGS)
@pytest.mark.parametrize("heads", [1, 2])
def test_logits_and_layers_are_those_of_each_gpt(
    heads: int, positions: str, with_starts: bool
) -> None:
    ids = tokens(3, 5, 7)
    starts = torch.tensor([0, 4, 1, 2, 3]).repeat(3, 1) if with_starts else None
    layers: list[torch.Tensor] = []
    scale = with_positions(positions, heads)
    stacked = StackedGPT(scale, SEEDS)
    with torch.no_grad():
        logits = stacked.forward(ids, layers, starts)
        assert torch.equal(logits, stacked.forward(ids, starts=starts))
        if positions != "learned":
            assert torch.equal(logits, stacked.forward(ids))
        for i, model in enumerate(models(scale)):
            own: list[torch.Tensor] = []
            expected = model(ids[i], own, None if starts is None else starts[i])
            torch.testing.assert_close(logits[i], expected, rtol=1e-5, atol=1e-6)
            for found, layer in zip(layers, own, strict=True):
                torch.testing.assert_close(found[i], layer, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("positions", POSITIONAL_ENCODINGS)
def test_gradients_of_buckets_are_those_of_each_gpt(positions: str) -> None:
    """Rows of two lengths, of which some tokens are read, with a table that is used twice."""
    buckets, starts = [tokens(3, 4, 5), tokens(3, 2, 9)], [torch.ones(3, 4).long()]
    starts.append(torch.tensor([[0, 2]]).repeat(3, 1))
    read = torch.tensor([0, 3, 7, 19, 20, 37])
    scale = with_positions(positions)
    stacked = StackedGPT(scale, SEEDS)
    stacked.forward_buckets(buckets, starts, read=read).square().sum().backward()
    for i, model in enumerate(models(scale)):
        logits = model.forward_buckets([b[i] for b in buckets], starts=[s[i] for s in starts])
        logits[read].square().sum().backward()
        for name, p in model.named_parameters():
            found = stacked.parameters[name].grad
            assert p.grad is not None and found is not None
            scale = float(p.grad.abs().max())
            torch.testing.assert_close(found[i], p.grad, rtol=1e-4, atol=1e-5 * scale)


def test_a_member_that_is_nan_leaves_the_others_bit_identical() -> None:
    ids = tokens(3, 5, 7)
    stacked = StackedGPT(SCALE, SEEDS)
    with torch.no_grad():
        before = stacked.forward(ids)
        stacked.weights[1] = torch.nan
        after = stacked.forward(ids)
    assert after[1].isnan().all()
    assert torch.equal(before[[0, 2]], after[[0, 2]])


def test_rows_that_start_at_zero_are_rows_without_a_start() -> None:
    model, ids = GPT(SCALE, 3), tokens(4, 6)
    with torch.no_grad():
        assert torch.equal(model(ids), model(ids, starts=torch.zeros(4).long()))
        assert not torch.allclose(model(ids), model(ids, starts=torch.ones(4).long()))
