"""The diagonal of Hessians against matrices formed whole, and its standard errors."""

import re
import statistics

import pytest
import torch
from torch import nn

import geomfast as gf
from tests.estimators.curvature.cases import cast, dense_hessian, made, planted


@pytest.mark.parametrize("name", ["mlp", "attention", "tied"])
def test_exact(name):
    model, batch, loss = made(name)
    matrix = dense_hessian(made(name, torch.float64)[0], loss, cast(batch, torch.float64))
    found = gf.hessian_diagonal(model, loss, batch, exact=True)
    assert found.mean.dtype == torch.float64 and found.products == len(matrix) + 2
    diagonal = matrix.diagonal()
    torch.testing.assert_close(
        found.mean, diagonal, rtol=1e-3, atol=1e-5 * matrix.abs().max().item()
    )
    assert (found.stderr <= 1e-6 * found.mean.abs()).all()


def test_batches_count_by_their_samples_and_the_names():
    model, (x, y), loss = made("mlp", torch.float64)
    diagonal = dense_hessian(model, loss, (x, y)).diagonal()
    parts = iter([(x[:2], y[:2]), (x[2:], y[2:])])
    found = gf.hessian_diagonal(model, loss, parts, exact=True)
    torch.testing.assert_close(found.mean, diagonal, rtol=1e-9, atol=1e-12)
    shapes = {name: p.shape for name, p in model.named_parameters()}
    for parts, flat in (
        (found.mean_by_parameter(), found.mean),
        (found.stderr_by_parameter(), found.stderr),
    ):
        assert {name: part.shape for name, part in parts.items()} == shapes
        assert torch.equal(torch.cat([part.flatten() for part in parts.values()]), flat)
    some = gf.hessian_diagonal(model, loss, (x, y), exact=True, params=["2.*"])
    torch.testing.assert_close(some.mean, diagonal[30:], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("probes", [6, 10, 40])
def test_standard_errors_hold_the_diagonal(probes):
    """95 of 100 entries, over seeds; and they are not much too wide."""
    model, batch, loss = made("mlp", torch.float64)
    exact = dense_hessian(model, loss, batch).diagonal()
    within, errors, said = [], [], []
    for seed in range(15):
        found = gf.hessian_diagonal(model, loss, batch, probes=probes, seed=seed)
        assert found.products == probes
        within.append(((found.mean - exact).abs() <= 2 * found.stderr).double().mean().item())
        errors.append((found.mean - exact).square())
        said.append(found.stderr.square())
    # A row of few entries has few signs to be seen: fewer probes miss more of them.
    assert statistics.fmean(within) >= 0.92
    actual = torch.stack(errors).mean(0).sqrt()
    ratio = (torch.stack(said).mean(0).sqrt() / actual).median().item()
    assert 0.9 <= ratio <= 1.6


def test_variance_is_that_of_the_rest_of_the_row():
    spectrum = torch.linspace(-1.0, 3.0, 200)
    model = planted(spectrum)
    matrix = model.matrix
    found = gf.hessian_diagonal(model, lambda m, x: m(x), torch.ones(2, 1), probes=100)
    rest = (matrix.square().sum(1) - matrix.diagonal().square()).sqrt() / 10
    torch.testing.assert_close(found.stderr.mean(), rest.mean(), rtol=0.05, atol=0.0)
    assert ((found.mean - matrix.diagonal()).abs() <= 4 * found.stderr).all()


def test_a_diagonal_matrix_needs_no_luck():
    model = nn.Linear(40, 1, bias=False).double()
    x = torch.eye(40, dtype=torch.float64) * torch.arange(40)

    def loss(model, x):
        return model(x)[:, 0].square()

    found = gf.hessian_diagonal(model, loss, x, probes=6)
    torch.testing.assert_close(found.mean, 2 * torch.arange(40).double().square() / 40)
    assert (found.stderr <= 1e-12 * found.mean.max()).all()


def test_few_parameters_are_exact_and_the_seed_decides():
    model, batch, loss = made("mlp", torch.float64)
    exact = dense_hessian(model, loss, batch).diagonal()
    found = gf.hessian_diagonal(model, loss, batch)  # 51 entries, 100 probes
    torch.testing.assert_close(found.mean, exact, rtol=1e-9, atol=1e-12)
    call = {"probes": 8}
    first, again = (gf.hessian_diagonal(model, loss, batch, seed=3, **call) for _ in range(2))
    other = gf.hessian_diagonal(model, loss, batch, seed=4, **call)
    assert torch.equal(first.mean, again.mean) and torch.equal(first.stderr, again.stderr)
    assert not torch.equal(first.mean, other.mean)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_losses_of_any_scale(scale):
    model, batch, loss = made("mlp")
    plain = gf.hessian_diagonal(model, loss, batch, probes=10)
    found = gf.hessian_diagonal(model, lambda m, b: scale * loss(m, b), batch, probes=10)
    atol = 1e-5 * plain.mean.abs().max().item()
    torch.testing.assert_close(found.mean / scale, plain.mean, rtol=1e-4, atol=atol)
    torch.testing.assert_close(found.stderr / scale, plain.stderr, rtol=1e-3, atol=atol)


class Wrong(torch.autograd.Function):
    """x^3 / 6, with a backward pass that takes its input for a constant."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x.detach().clone())
        return x**3 / 6

    @staticmethod
    def backward(ctx, *gradients):
        return gradients[0] * ctx.saved_tensors[0] ** 2 / 2


def test_bad_input():
    model, batch, loss = made("mlp")
    for arguments, message in (
        ({"probes": 5}, "probes must be 6 or more, not 5"),
        ({"probes": 0}, "probes must be a whole number of 1 or more, not 0"),
        ({"matrix": "fisher"}, "matrix must be one of hessian, gauss-newton, not 'fisher'"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            gf.hessian_diagonal(model, loss, batch, **arguments)
    with pytest.raises(TypeError, match="exact must be True or False, not 1"):
        gf.hessian_diagonal(model, loss, batch, exact=1)
    wide = nn.Linear(5001, 2, bias=False)
    squares = lambda m, x: m(x).square().sum(1)  # noqa: E731
    with pytest.raises(ValueError, match="each of the parameters' 10,002 entries, of which"):
        gf.hessian_diagonal(wide, squares, torch.randn(3, 5001), exact=True)
    for exact in (True, False):
        with pytest.raises(ValueError, match=r"second derivative of .* is wrong"):
            gf.hessian_diagonal(
                model, lambda m, b: Wrong.apply(m(b[0])).sum(1), batch, probes=6, exact=exact
            )
