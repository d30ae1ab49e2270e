"""Norms of per-sample gradients against gradients taken one by one."""

import math
import re

import pytest
import torch
from torch import nn

import geomfast as gf
from geomfast.kernels.gradient_gram import Factors, reference, squared_norms
from geomfast.kernels.gradient_gram import norms as module
from tests import cases
from tests.estimators.models import N, build, exact_gram, loss, loss64

MODELS = build()


def made(name):
    torch.manual_seed(7)
    model, batch = MODELS[name]
    return model(), batch()


@pytest.mark.parametrize("name", MODELS)
def test_every_kind_of_model(name):
    model, batch = made(name)
    found = gf.gradient_norms(model, loss, batch)
    model = model.double()
    batch = batch.double() if batch.is_floating_point() else batch
    exact = exact_gram(model, loss64, batch).diagonal().sqrt()
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-5)
    layers = gf.gradient_norms(model, loss64, batch, per_layer=True)
    assert list(layers) == [name for name, _ in model.named_parameters()]
    grams = gf.gradient_gram(model, loss64, batch, per_layer=True)
    for name, norms in layers.items():
        expected = grams[name].diagonal().clamp_min(0).sqrt()
        torch.testing.assert_close(norms, expected, rtol=1e-8, atol=1e-7)
    whole = torch.stack([norms.square() for norms in layers.values()]).sum(0).sqrt()
    torch.testing.assert_close(whole, exact, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("samples", [1, 5])
@pytest.mark.parametrize("length", [1, 4, 19])
@pytest.mark.parametrize(("rows", "columns"), [(1, 7), (9, 1), (12, 20)])
@pytest.mark.parametrize("kind", ["dense", "both", "one-hot", "two dense"])
def test_ways_agree(samples, length, rows, columns, kind):
    right = cases.normal(samples, length, columns)
    dense = Factors(cases.normal(samples, length, rows, seed=1), right, rows)
    indices = torch.randint(0, rows, (samples, length), generator=cases.generator())
    looked_up = Factors(indices, right.flip(0), rows)
    uses = {
        "dense": [dense],
        "both": [dense, looked_up],
        "one-hot": [looked_up],
        "two dense": [dense, Factors(dense.left.flip(1), right, rows)],
    }[kind]
    exact = reference.gram(uses, centered=False).diagonal()
    close = {"rtol": 1e-5, "atol": 2e-6 * exact.max().item()}
    for budget in (1, 10**9):
        torch.testing.assert_close(module._ghost(uses, budget)[0], exact, **close)
        torch.testing.assert_close(module._materialised(uses, budget), exact, **close)
        torch.testing.assert_close(squared_norms(uses, budget), exact, **close)


def test_ghost_products_that_cancel_are_made_otherwise():
    """Two positions with opposite gradients, but for a little."""
    left, right = cases.normal(3, 1, 40), cases.normal(3, 1, 50, seed=1)
    small = 1e-3 * cases.normal(3, 1, 50, seed=2)
    use = Factors(torch.cat([left, -left], 1), torch.cat([right, right + small], 1), 40)
    exact = reference.gram([use], False).diagonal()
    torch.testing.assert_close(squared_norms([use], 10**9), exact, rtol=1e-3, atol=0.0)
    found, size = module._ghost([use], 10**9)
    assert (found < 1e-4 * size).all()


@pytest.mark.parametrize("exponent", [-100, 60])
def test_gradients_of_any_size(exponent):
    model, batch = made("deep")
    plain = gf.gradient_norms(model, loss, batch)
    found = gf.gradient_norms(model, lambda m, b: loss(m, b) * 2.0**exponent, batch)
    torch.testing.assert_close(found * 2.0**-exponent, plain, rtol=1e-5, atol=0.0)


def test_batches_one_after_the_other_and_the_first_entries():
    model, batch = made("deep")
    whole = gf.gradient_norms(model, loss, batch)
    parts = gf.gradient_norms(model, loss, iter([batch[:3], batch[3:4], batch[4:]]))
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=0.0)
    one = gf.gradient_norms(model, loss, batch[2:3], per_layer=True, params=iter(["2.*"]))
    layers = gf.gradient_norms(model, loss, batch, per_layer=True)
    assert list(one) == ["2.weight", "2.bias"]
    torch.testing.assert_close(one["2.bias"], layers["2.bias"][2:3], rtol=1e-5, atol=0.0)
    first = gf.gradient_norms(model, loss, batch, params=36)
    torch.testing.assert_close(first, layers["0.weight"], rtol=1e-5, atol=0.0)


def test_closed_form_of_linear_regression():
    """|r_i x_i|."""
    x, y = cases.normal(9, 7).double(), cases.normal(9).double()
    torch.manual_seed(0)
    model = nn.Linear(7, 1, bias=False).double()
    found = gf.gradient_norms(model, lambda m, b: 0.5 * (m(b[0])[:, 0] - b[1]) ** 2, (x, y))
    residual = model(x)[:, 0].detach() - y
    torch.testing.assert_close(found, residual.abs() * x.norm(dim=1), rtol=1e-12, atol=0.0)


def test_bad_input():
    model, batch = made("deep")
    with pytest.raises(ValueError, match="must not be reduced"):
        gf.gradient_norms(model, lambda m, b: loss(m, b).mean(), batch)
    with pytest.raises(ValueError, match=r"loss of sample \d depends on the other samples"):
        gf.gradient_norms(model, lambda m, b: loss(m, b - b.mean(0)), batch)
    with pytest.raises(TypeError, match="per_layer must be True or False, not 'x'"):
        gf.gradient_norms(model, loss, batch, per_layer="x")
    with pytest.raises(ValueError, match=re.escape("'head.*' matches none of")):
        gf.gradient_norms(model, loss, batch, params=["head.*"])
    with pytest.raises(ValueError, match="data holds no batch"):
        gf.gradient_norms(model, loss, [])
    batch[4, 1, 2] = math.nan
    with pytest.raises(ValueError, match=r"gradient of sample 4 is not finite in parameter 0\.w"):
        gf.gradient_norms(model, loss, batch)
    assert len(batch) == N
