"""Batches as loaders and tokenizers make them, for every measure."""

import random
import warnings
from collections import UserDict, namedtuple

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

import geomfast as gf
from geomfast.estimators.batches import (
    Batches,
    batches_of,
    count,
    joined,
    mapped,
    tensors_of,
    with_tensors,
)

X, Y = torch.randn(12, 4, generator=torch.Generator().manual_seed(0)), torch.arange(12.0)
Pair = namedtuple("Pair", "x y")


class Encoding(UserDict):
    """What a tokenizer returns: a mapping that is no dictionary, with its items as attributes."""

    def __getattr__(self, name):
        if name == "data":
            raise AttributeError
        return self.data[name]


def model():
    torch.manual_seed(1)
    return nn.Linear(4, 1)


def loss(m, batch):
    return (m(batch[0])[:, 0] - batch[1]) ** 2


def named(m, batch):
    return (m(batch["x"])[:, 0] - batch["y"]) ** 2


def attributes(m, batch):
    assert batch.note == ["kept"] * 3
    return (m(batch.x)[:, 0] - batch.y) ** 2


MADE = {
    "tuple": (loss, (X, Y)),
    "list": (loss, [X, Y]),
    "named tuple": (loss, Pair(X, Y)),
    "dictionary": (named, {"x": X, "y": Y, "text": ["a"] * 12, "length": 12}),
    "encoding": (attributes, Encoding(x=X, y=Y, note=["kept"] * 3)),
    "nested": (lambda m, b: loss(m, (b["x"][0], b["y"])), {"x": [X, "name"], "y": Y, "n": None}),
}


@pytest.mark.parametrize("kind", MADE)
def test_every_measure_takes_a_batch_of_any_kind(kind):
    loss_fn, batch = MADE[kind]
    m = model()
    torch.testing.assert_close(
        gf.gradient_gram(m, loss_fn, batch), gf.gradient_gram(m, loss, (X, Y))
    )
    expected = gf.hessian_top_eigenvalues(m, loss, (X, Y), k=2)
    found = gf.hessian_top_eigenvalues(m, loss_fn, batch, k=2)
    torch.testing.assert_close(found.values, expected.values)
    assert gf.hessian_trace(m, loss_fn, batch).mean == gf.hessian_trace(m, loss, (X, Y)).mean
    options = {"lr": 1e-5, "draws": 6, "burn_in": 2, "chains": 2}
    for more in ({}, {"batch_size": 4}, {"stacked": False}):
        estimate = gf.llc(m, loss_fn, batch, **options, **more)
        assert estimate.mean == gf.llc(m, loss, (X, Y), **options, **more).mean, more


def test_lists():
    assert [len(b) for b in (batches_of([X, Y]), batches_of([X]), batches_of([(X, Y)] * 3))] == [
        *(1, 1, 3)
    ]
    assert len(batches_of([{"x": X}, {"x": X}])) == 2
    assert len(batches_of([[X, Y], [X, Y]])) == 2
    assert len(batches_of([X, X[:5]])) == 2  # cannot be one batch
    assert len(batches_of(iter([X, X]))) == 2
    assert len(batches_of(Batches([X, X]))) == 2
    assert len(batches_of([X, ["a", "b"]])) == 1
    with pytest.raises(ValueError, match="no batch"):
        batches_of([])
    for bad in (3, "text", None):
        with pytest.raises(ValueError, match="holds no tensor"):
            batches_of(bad)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_for_every_measure_and_its_generator_stays(workers):
    generator = torch.Generator().manual_seed(3)
    loader = DataLoader(
        TensorDataset(X, Y), batch_size=5, shuffle=True, generator=generator, num_workers=workers
    )
    before = (
        *(generator.get_state(), torch.get_rng_state(), random.getstate()),
        np.random.get_state()[1].tolist(),
    )
    m = model()
    with pytest.warns(UserWarning, match="shuffles"):
        gram = gf.gradient_gram(m, loss, loader)
    assert gram.shape == (12, 12)
    expected = gf.gradient_gram(m, loss, (X, Y))
    torch.testing.assert_close(
        torch.linalg.eigvalsh(gram), torch.linalg.eigvalsh(expected), rtol=1e-4, atol=1e-3
    )
    assert gf.fisher_effective_rank(m, loss, loader) == pytest.approx(
        gf.fisher_effective_rank(m, loss, (X, Y)), rel=1e-4
    )
    top = gf.hessian_top_eigenvalues(m, loss, loader)
    torch.testing.assert_close(
        top.values, gf.hessian_top_eigenvalues(m, loss, (X, Y)).values, rtol=1e-4, atol=0.0
    )
    gf.llc(m, loss, loader, lr=1e-5, draws=4, burn_in=1, chains=2)
    after = (
        *(generator.get_state(), torch.get_rng_state(), random.getstate()),
        np.random.get_state()[1].tolist(),
    )
    assert torch.equal(before[0], after[0]) and torch.equal(before[1], after[1])
    assert before[2:] == after[2:]


def test_a_loader_whose_batches_cannot_be_joined():
    with pytest.raises(ValueError, match=r"cannot be joined: .*pad them to one shape"):
        gf.gradient_gram(model(), loss, [(X, Y), (X[:, :3], Y)])


def test_containers_keep_their_kind_and_order():
    batch = {"b": Pair(X, [Y, "s"]), "a": Encoding(z=X), "n": 3}
    doubled = mapped(lambda x: 2 * x, batch)
    assert list(doubled) == ["b", "a", "n"] and type(doubled["b"]) is Pair
    assert type(doubled["a"]) is Encoding and doubled["b"].y[1] == "s" and doubled["n"] == 3
    assert batch["a"]["z"] is X  # the user's own is left alone
    again = with_tensors(batch, tensors_of(doubled))
    assert torch.equal(again["a"]["z"], 2 * X) and torch.equal(again["b"].y[0], 2 * Y)
    assert count(batch) == 12
    assert joined([batch, batch])["b"].x.shape == (24, 4)
    with pytest.raises(ValueError, match="otherwise"):
        joined([(X, Y), (X, [Y])[:1]])


def test_tensors_made_in_inference_mode():
    with torch.inference_mode():
        x, y = X * 1, Y * 1
        rank = gf.fisher_effective_rank(model_outside, loss, (x, y))
        top = gf.hessian_top_eigenvalues(model_outside, loss, (x, y)).values
        estimate = gf.llc(model_outside, loss, (x, y), lr=1e-5, draws=4, burn_in=1)
    assert rank == gf.fisher_effective_rank(model_outside, loss, (X, Y))
    assert torch.equal(top, gf.hessian_top_eigenvalues(model_outside, loss, (X, Y)).values)
    assert estimate.mean == gf.llc(model_outside, loss, (X, Y), lr=1e-5, draws=4, burn_in=1).mean


model_outside = model()


def test_rows_for_samples_of_a_loader_that_shuffles_are_told_of():
    torch.manual_seed(0)
    net, x = nn.Linear(3, 2), torch.randn(8, 3)
    plain = DataLoader(x, batch_size=4)
    drawn = BatchSampler(RandomSampler(range(8)), 4, drop_last=False)

    def loss(model, batch):
        return model(batch).square().sum(1)

    rows = {
        "gradient_norms": lambda data: gf.gradient_norms(net, loss, data),
        "gradient_gram": lambda data: gf.gradient_gram(net, loss, data),
        "ntk": lambda data: gf.ntk(net, lambda m, b: m(b), data),
        "llc": lambda data: gf.llc(
            net, loss, data, lr=1e-3, nbeta=4.0, localization=1.0, draws=4, keep_losses=True
        ),
    }
    for shuffled in (DataLoader(x, batch_size=4, shuffle=True), DataLoader(x, batch_sampler=drawn)):
        for name, call in rows.items():
            with pytest.warns(UserWarning, match="a DataLoader that shuffles"):
                call(shuffled)
            with warnings.catch_warnings():
                warnings.simplefilter("error", UserWarning)
                if name != "llc":  # whose few draws are warned of
                    call(plain)
        # What no order changes is not warned of.
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            gf.fisher_effective_rank(net, loss, shuffled)
            gf.gradient_covariance_rank(net, loss, shuffled)
            gf.gradient_statistics(net, loss, shuffled)
