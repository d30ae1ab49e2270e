"""Minibatches: no sample twice, all as often, none that knows of another; and data cut by them."""

import math

import pytest
import torch

from geomfast.estimators.batches import index_batch, joined, parts
from geomfast.estimators.sampling.streams import Shuffled

SIZES = [(1, 1), (7, 7), (50, 1), (50, 20), (50, 25), (50, 26), (50, 49), (1000, 7)]


def drawn(samples, batch_size, steps, key=(0, 0)):
    stream = Shuffled(samples, batch_size, key)
    return torch.stack([stream.next() for _ in range(steps)])


@pytest.mark.parametrize(("samples", "batch_size"), SIZES)
def test_no_sample_is_twice_in_a_minibatch(samples, batch_size):
    found = drawn(samples, batch_size, 600).sort(1).values
    assert found.shape == (600, batch_size) and found.dtype == torch.int64
    assert found.min() >= 0 and found.max() < samples
    assert (found.diff(dim=1) > 0).all()


@pytest.mark.parametrize(("samples", "batch_size"), [(50, 1), (50, 20), (50, 26), (1000, 7)])
def test_every_sample_is_used_as_often(samples, batch_size):
    steps = 20_000
    share = batch_size / samples
    counts = drawn(samples, batch_size, steps).flatten().bincount(minlength=samples).double()
    # Chi squared of n - 1 degrees of freedom, as the counts of a step add up to m.
    spread = (counts - steps * share).square().sum() / (steps * share * (1 - share))
    scaled = spread.item() * (samples - 1) / samples
    assert abs(scaled - (samples - 1)) <= 4 * math.sqrt(2 * (samples - 1))


@pytest.mark.parametrize(("samples", "batch_size"), [(50, 20), (50, 26), (1000, 30)])
@pytest.mark.parametrize("apart", [1, 2, 255, 256])
def test_minibatches_do_not_avoid_each_other(samples, batch_size, apart):
    """They share m^2 / n samples in the mean; cut from one epoch they would share none."""
    steps = 5000
    member = torch.zeros(steps, samples).scatter_(1, drawn(samples, batch_size, steps), 1.0)
    common = (member[apart:] * member[:-apart]).sum(1)
    share = batch_size / samples
    variance = batch_size * share * (1 - share) ** 2 * samples / (samples - 1)
    off = common.mean().item() - batch_size * share
    assert abs(off) <= 4 * math.sqrt(variance / len(common))


def test_every_pair_of_samples_is_as_likely():
    steps, samples, batch_size = 40_000, 8, 3
    member = torch.zeros(steps, samples).scatter_(1, drawn(samples, batch_size, steps), 1.0)
    pairs = (member.T @ member)[tuple(torch.triu_indices(samples, samples, 1))] / steps
    chance = batch_size * (batch_size - 1) / (samples * (samples - 1))
    assert (pairs - chance).abs().max() <= 4 * math.sqrt(chance * (1 - chance) / steps)


def test_a_stream_is_named_by_its_key():
    assert torch.equal(drawn(90, 4, 700, (3, 1)), drawn(90, 4, 700, (3, 1)))
    # What comes first does not depend on how much is drawn.
    assert torch.equal(drawn(90, 4, 700, (3, 1))[:5], drawn(90, 4, 5, (3, 1)))
    for other in ((3, 2), (1, 3), (4, 1)):
        assert not torch.equal(drawn(90, 4, 10, (3, 1)), drawn(90, 4, 10, other))


def test_samples_of_a_nest_are_taken_along_the_first_dimension():
    data = {"x": torch.arange(12.0).view(6, 2), "y": (torch.arange(6), torch.arange(6) % 2)}
    indices = torch.tensor([[4, 0, 1], [2, 2, 5]])
    found = index_batch(data, indices)
    assert torch.equal(found["x"][1, 2], torch.tensor([10.0, 11.0]))
    assert torch.equal(found["y"][0], indices)
    assert torch.equal(found["y"][1], indices % 2)


def test_a_batch_in_parts():
    data = {"x": torch.arange(10.0).view(5, 2), "y": (torch.arange(5), None)}
    found = list(parts(data, 2))
    assert [first for first, _ in found] == [0, 2, 4]
    assert [part["y"][0].tolist() for _, part in found] == [[0, 1], [2, 3], [4]]
    assert found[1][1]["x"].data_ptr() == data["x"][2:].data_ptr()
    for size in (None, 5, 9):
        assert [len(part["x"]) for _, part in parts(data, size)] == [5]


def test_batches_become_one():
    batches = [(torch.ones(2, 3), torch.zeros(2)), (torch.zeros(1, 3), torch.ones(1))]
    x, y = joined(batches)
    assert x.tolist() == [[1.0] * 3] * 2 + [[0.0] * 3] and y.tolist() == [0.0, 0.0, 1.0]
    assert joined(batches[:1]) is batches[0]


@pytest.mark.parametrize(
    "second",
    [torch.zeros(2, 4), (torch.zeros(2, 3),), {"x": torch.zeros(2, 3)}],
    ids=["length", "tuple", "mapping"],
)
def test_batches_that_cannot_become_one(second):
    with pytest.raises((ValueError, RuntimeError), match=r"Sizes of tensors|hold their tensors"):
        joined([torch.zeros(2, 3), second])
