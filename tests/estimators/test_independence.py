"""Losses that must be those of their own samples: compared with parts of the batch."""

import pytest
import torch
from torch import nn

import geomfast as gf
from geomfast.estimators.checks import require_independent
from tests import cases


def compared(loss_fn, model, batch):
    with torch.no_grad():
        losses = loss_fn(model, batch)
    require_independent(loss_fn, model, batch, losses)


def squares(model, x):
    return model(x).square().sum(-1)


COUPLED = {
    "mean of the batch": lambda m, x: squares(m, x - x.mean(0)),
    "the largest of the batch": lambda m, x: squares(m, x / x.abs().max()),
    "neighbours": lambda m, x: squares(m, x) * x.roll(1, 0)[:, 0].exp(),
    "the other half": lambda m, x: squares(m, x) + squares(m, x.roll(len(x) // 2, 0)),
    "the place in the batch": lambda m, x: squares(m, x) * torch.arange(1, len(x) + 1),
    "number of samples": lambda m, x: squares(m, x) / len(x),
}


@pytest.mark.parametrize("samples", [2, 16, 31, 35, 101])
@pytest.mark.parametrize("name", COUPLED)
def test_losses_that_depend_on_other_samples_are_refused(name, samples):
    torch.manual_seed(0)
    with pytest.raises(ValueError, match=r"loss of sample \d+ depends on the other samples"):
        compared(COUPLED[name], nn.Linear(4, 3), cases.normal(samples, 4))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("samples", [1, 2, 31, 64])
def test_losses_of_single_samples_pass(samples, dtype):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 300), nn.Tanh(), nn.Linear(300, 5)).to(dtype)
    x, y = cases.normal(samples, 40).to(dtype), torch.arange(samples) % 5
    loss = nn.CrossEntropyLoss(reduction="none")
    compared(lambda m, b: loss(m(b["x"]), b["y"]), model, {"x": x, "y": y})


def test_two_parts_and_a_few_single_samples_are_evaluated_once_more():
    seen = []

    def loss(model, x):
        seen.append((len(x), torch.is_grad_enabled()))
        return squares(model, x)

    model, x = nn.Linear(4, 3), cases.normal(31, 4)
    require_independent(loss, model, x, loss(model, x))
    assert seen[:3] == [(31, True), (16, False), (15, False)]
    assert 0 < len(seen[3:]) <= 8 and set(seen[3:]) == {(2, False)}


def attends_to_padding(model, batch):
    """As of a model that pads to the longest sample, and does not mask what it has padded."""
    x, lengths = batch
    x = x[:, : int(lengths.max())]
    return model(x - x.mean(1, keepdim=True)).square().mean((1, 2))


@pytest.mark.parametrize("padding", [0.0, 50.0, -7.5])
@pytest.mark.parametrize("samples", [2, 3, 33, 400])
def test_one_short_sample_among_long_ones_is_looked_at_alone(samples, padding):
    torch.manual_seed(0)
    x, lengths = cases.normal(samples, 6, 4), torch.full((samples,), 6)
    lengths[samples // 3] = 2
    x[samples // 3, 2:] = padding  # at its end, so that the length is that of the front
    with pytest.raises(ValueError, match=rf"loss of sample {samples // 3} depends on the other"):
        compared(attends_to_padding, nn.Linear(4, 3), (x, lengths))
    with pytest.raises(ValueError, match=rf"loss of sample {samples // 3} depends on the other"):
        gf.hessian_top_eigenvalues(nn.Linear(4, 3), attends_to_padding, (x, lengths), k=1)
    with pytest.raises(ValueError, match=r"depends on the other samples|not of single samples"):
        gf.gradient_gram(nn.Linear(4, 3), attends_to_padding, (x, lengths))


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.uint8, torch.int64, torch.bfloat16, torch.complex64]
)
def test_batches_of_any_type_have_single_samples(dtype):
    x = cases.normal(40, 4)

    def loss(model, batch):
        return squares(model, batch[0])

    compared(loss, nn.Linear(4, 3), (x, x.abs().to(dtype)))


def test_models_that_squeeze_a_first_dimension_of_one_are_accepted():
    model = nn.Linear(4, 1)
    compared(lambda m, x: m(x).squeeze().square(), model, cases.normal(40, 4))
