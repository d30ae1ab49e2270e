"""Losses that depend on the other samples of a minibatch: chains see it where they begin."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import geomfast as gf
from tests import cases

X = cases.normal(40, 4)
CALL: dict[str, Any] = {"lr": 1e-3, "nbeta": 10.0, "chains": 2, "draws": 6, "burn_in": 0}
MESSAGE = (
    r"the first minibatch of chain 0 has a mean loss of \S+ at the model's own weights, where the "
    r"same samples had \S+ in another batch: .* depend on the other samples .*, or are random; take"
)


def squares(model, x):
    return model(x).square().sum(-1)


def contrast(model, x):
    """Every sample against the others of its batch."""
    codes = F.normalize(model(x), dim=-1)
    return F.cross_entropy(codes @ codes.mT, torch.arange(len(x)), reduction="none")


class Shared(nn.Module):
    """A matrix of the whole batch, as decorrelation losses have."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x):
        codes = self.linear(x)
        return codes.square().sum(-1) + torch.cov(codes.mT).square().sum()


COUPLED = {
    "mean": (nn.Linear(4, 3), lambda m, x: squares(m, x - x.mean(0))),
    "contrast": (nn.Linear(4, 3), contrast),
    "matrix": (Shared(), lambda m, x: m(x)),
    "weights": (nn.Linear(4, 3), lambda m, x: squares(m, x) * torch.softmax(x[:, 0], 0) * len(x)),
}


def coupled(name, monkeypatch):
    """A case that nothing else refuses before the chains begin, as losses may couple rarely."""
    monkeypatch.setattr("geomfast.estimators.llc.require_sound", lambda *_: None, raising=False)
    return COUPLED[name]


@pytest.mark.parametrize("name", COUPLED)
@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 8},
        {"batch_size": 8, "stacked": False},
        {"batch_size": 20, "at_once": 5},
        {"batch_size": 8, "common_batches": True},
        {"batch_size": 8, "momentum": 0.5},
        {"batch_size": 8, "chains": 1},
    ],
)
def test_minibatches_whose_losses_are_others_where_chains_begin(name, options, monkeypatch):
    torch.manual_seed(0)
    model, loss = coupled(name, monkeypatch)
    with pytest.raises(ValueError, match=MESSAGE):
        gf.llc(model, loss, X, **CALL | options)


@pytest.mark.parametrize("name", COUPLED)
@pytest.mark.parametrize("batch_size", [None, 8])
def test_coupled_losses_get_no_coefficient(name, batch_size):
    model, loss = COUPLED[name]
    with pytest.raises(ValueError, match="depend"):
        gf.llc(model, loss, X, batch_size=batch_size, **CALL)


def test_numbers_of_the_refusal(monkeypatch):
    """A loss of the number of samples beside it: 8 in a minibatch, taken first by two."""
    coupled("mean", monkeypatch)
    found = r"has a mean loss of 3 at .* same samples had 8 in another batch"

    def loss(model, x):  # without gradients as it is at first, in a batch of 8
        return 0.0 * squares(model, x) + (3.0 if torch.is_grad_enabled() else len(x))

    with pytest.raises(ValueError, match=found):
        gf.llc(nn.Linear(4, 3), loss, X, batch_size=8, **CALL)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize(
    "options",
    [{}, {"batch_size": 7}, {"batch_size": 7, "at_once": 3}, {"batch_size": 7, "stacked": False}],
)
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_rounding_is_no_coupling(dtype, options, scale):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(60, 200), nn.Tanh(), nn.Linear(200, 5)).to(dtype)
    data = (cases.normal(40, 60).to(dtype), torch.arange(40) % 5)

    def loss(model, batch):
        return scale * F.cross_entropy(model(batch[0]), batch[1], reduction="none")

    found = gf.llc(model, loss, data, lr=1e-6, **{k: v for k, v in CALL.items() if k != "lr"},
                   **options)  # fmt: skip
    assert found.excess_trace[:, 0].abs().max() <= 1e-6 * scale * 2 and math.isfinite(found.mean)


def test_losses_that_cancel_are_compared_by_their_size():
    """Means near zero of losses near 1e6, which float32 rounds by more than the means."""
    shift = 1e6 * torch.linspace(-1, 1, 40)

    def loss(model, batch):
        return squares(model, batch[0]) + batch[1]

    found = gf.llc(nn.Linear(4, 3), loss, (X, shift), batch_size=8, at_once=3, **CALL)
    assert math.isfinite(found.mean)
