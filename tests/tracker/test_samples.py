"""The samples that a tracker measures on."""

from collections import UserDict

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from geomfast.tracker.samples import data_hash, samples_of
from tests.tracker.tracked import batch

CPU = torch.device("cpu")


def test_one_batch_is_copied():
    x, y = batch(6)
    (kept,) = samples_of((x, y), None, CPU)
    before = data_hash([kept])
    x.zero_()
    assert data_hash([kept]) == before != data_hash([(x, y)])


def test_no_more_batches_than_needed():
    def batches():
        yield torch.arange(4)
        yield torch.arange(4, 8)
        raise AssertionError("one batch too many")

    kept = samples_of(batches(), 6, CPU)
    assert torch.cat(kept).tolist() == list(range(6))
    assert [len(part) for part in samples_of(torch.arange(9), 5, CPU)] == [5]


def test_what_a_tokenizer_gives_becomes_a_dictionary():
    (kept,) = samples_of(UserDict(input_ids=torch.ones(3, 2)), None, CPU)
    assert type(kept) is dict and kept["input_ids"].shape == (3, 2)


def test_the_generator_of_a_loader_is_as_it_was():
    generator = torch.Generator().manual_seed(0)
    loader = DataLoader(TensorDataset(*batch(12)), 4, shuffle=True, generator=generator)
    before = generator.get_state()
    samples_of(loader, 8, CPU)
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("data", [3, "text", None])
def test_what_is_no_data(data):
    with pytest.raises(TypeError, match="data must be a batch"):
        samples_of(data, None, CPU)


@pytest.mark.parametrize("data", [[], torch.zeros(1, 3)])
def test_too_few_samples(data):
    with pytest.raises(ValueError, match="2 or more are needed"):
        samples_of(data, None, CPU)


def test_a_list_as_a_loader_gives_it_is_one_batch():
    x, y = batch(6)
    (kept,) = samples_of([x, y], 4, CPU)
    assert [len(part) for part in kept] == [4, 4]
    assert len(samples_of([(x, y), (x, y)], None, CPU)) == 2
    # Of several sizes they can only be several.
    assert len(samples_of([x, x[:3]], None, CPU)) == 2


def test_tensors_of_a_tokenizer_inside_a_batch_are_copied_and_hashed():
    x, y = torch.randn(4, 3), torch.arange(4)
    kept = samples_of((UserDict(x=x), y), None, CPU)
    before = data_hash(kept)
    x.mul_(2)  # as a loader that uses its memory again
    assert data_hash(kept) == before
    assert data_hash(samples_of((UserDict(x=x), y), None, CPU)) != before
    assert samples_of([UserDict(x=UserDict(x=x))], None, CPU)
