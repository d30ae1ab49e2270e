"""Gradients written by hand are autograd's, member by member."""

import pytest
import torch
import torch.nn.functional as F

from geomfast.testbed.models.scales import POSITIONAL_ENCODINGS, Scale
from geomfast.testbed.models.stacked import StackedGPT
from geomfast.testbed.models.stacked_gradients import StackedGradients
from geomfast.testbed.models.stacked_layout import Buffers

SEEDS = (4, 0, 9)
#: Layers, width and heads.
SHAPES = [(1, 8, 1), (2, 16, 1), (3, 32, 2), (1, 48, 3)]
#: Without padding, of which each bucket has some.
LENGTHS = [(5, 5, 3, 4), (7, 9)]
READ = torch.tensor([0, 3, 7, 18, 20, 37])
WEIGHTS = torch.tensor([0.5, 1.0, 0.1, 2.0, 0.0, 0.7])


def stacked(layers: int, width: int, heads: int, positions: str = "learned") -> StackedGPT:
    """Members with weights such that attention, gains and biases all matter."""
    model = StackedGPT(Scale("", layers, width, heads, 1e-3, 13, 11, positions), SEEDS)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        model.weights += 0.2 * torch.randn(model.weights.shape, generator=generator)
    return model


def batch() -> tuple[list[torch.Tensor], list[torch.Tensor], torch.Tensor]:
    """Rows of two lengths, starts, of which some lead beyond the table, and targets."""
    generator = torch.Generator().manual_seed(0)
    buckets = [torch.randint(13, shape, generator=generator) for shape in ((3, 4, 5), (3, 2, 9))]
    starts = [torch.tensor([[0, 6, 1, 9]]).repeat(3, 1), torch.tensor([[0, 2], [2, 1], [0, 0]])]
    return buckets, starts, torch.randint(13, (3, len(READ)), generator=generator)


def by_hand(model: StackedGPT, buffers: Buffers) -> tuple[torch.Tensor, torch.Tensor]:
    buckets, starts, targets = batch()
    gradients = torch.full_like(model.weights, torch.nan)
    one = StackedGradients(model, gradients, buffers)
    return one.losses(buckets, LENGTHS, starts, targets, READ, WEIGHTS), gradients


@pytest.mark.parametrize("positions", POSITIONAL_ENCODINGS)
@pytest.mark.parametrize(("layers", "width", "heads"), SHAPES)
def test_losses_and_gradients_are_autograds(
    layers: int, width: int, heads: int, positions: str
) -> None:
    model = stacked(layers, width, heads, positions)
    buckets, starts, targets = batch()
    logits = model.forward_buckets(buckets, starts, read=READ)
    nats = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    expected = (nats.view(3, -1) * WEIGHTS).sum(1)
    exact = torch.autograd.grad(expected.sum(), list(model.parameters.values()))
    losses, gradients = by_hand(model, Buffers())
    torch.testing.assert_close(losses, expected.detach(), rtol=1e-5, atol=0)
    for name, found, of in zip(model.names, model.views(gradients), exact, strict=True):
        for i in range(len(SEEDS)):
            assert (found[i] - of[i]).norm() <= 3e-6 * of[i].norm(), name


@pytest.mark.parametrize("positions", POSITIONAL_ENCODINGS)
@pytest.mark.parametrize(("layers", "width", "heads"), SHAPES)
def test_losses_and_gradients_are_those_of_a_gpt_in_float64(
    layers: int, width: int, heads: int, positions: str
) -> None:
    model = stacked(layers, width, heads, positions)
    buckets, starts, targets = batch()
    losses, gradients = by_hand(model, Buffers())
    found = dict(zip(model.names, model.views(gradients), strict=True))
    for i in range(len(SEEDS)):
        alone = model.member(i).double()
        logits = alone.forward_buckets([b[i] for b in buckets], starts=[s[i] for s in starts])
        nats = F.cross_entropy(logits[READ], targets[i], reduction="none")
        expected = (nats * WEIGHTS.double()).sum()
        expected.backward()
        torch.testing.assert_close(losses[i].double(), expected.detach(), rtol=1e-5, atol=0)
        for name, p in alone.named_parameters():
            assert p.grad is not None
            assert (found[name][i] - p.grad).norm() <= 3e-6 * p.grad.norm(), name


@pytest.mark.parametrize("positions", POSITIONAL_ENCODINGS)
@pytest.mark.parametrize(("layers", "width", "heads"), SHAPES)
def test_what_buffers_held_does_not_matter(
    layers: int, width: int, heads: int, positions: str
) -> None:
    buffers, other = Buffers(), stacked(3, 48, 3)
    other.weights.detach().fill_(torch.nan)
    by_hand(other, buffers)
    model = stacked(layers, width, heads, positions)
    for found, expected in zip(by_hand(model, buffers), by_hand(model, Buffers()), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("positions", POSITIONAL_ENCODINGS)
def test_a_member_that_is_nan_leaves_the_others_bit_identical(positions: str) -> None:
    healthy, ill = stacked(2, 16, 1, positions), stacked(2, 16, 1, positions)
    ill.weights.detach()[1] = torch.nan
    before, after = by_hand(healthy, Buffers()), by_hand(ill, Buffers())
    for found, expected in zip(after, before, strict=True):
        assert found[1].isnan().all()
        assert torch.equal(found[[0, 2]], expected[[0, 2]])
