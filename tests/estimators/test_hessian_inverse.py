"""Products with the inverse of damped Hessians against dense solutions, and what is said else."""

import math
import re
import warnings

import pytest
import torch
from torch import nn

import geomfast as gf
from geomfast.estimators.curvature.basis import Asymmetric
from geomfast.estimators.curvature.conjugate_gradients import solve
from geomfast.estimators.hessian import NotConverged
from tests import cases
from tests.estimators.curvature.cases import cast, dense_hessian, made, planted


def constant(model, x):
    return model(x)


@pytest.mark.parametrize("name", ["mlp", "attention", "tied"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dense_solutions(name, dtype):
    model, batch, loss = made(name, dtype)
    matrix = dense_hessian(made(name, torch.float64)[0], loss, cast(batch, torch.float64))
    side = len(matrix)
    damping = 0.1 - torch.linalg.eigvalsh(matrix)[0].clamp_max(0.0).item()
    v = cases.normal(side, dtype=torch.float64)
    damped = matrix + damping * torch.eye(side, dtype=torch.float64)
    tol = 1e-5 if dtype == torch.float32 else 1e-10
    call = {"damping": damping, "tol": tol, "max_iterations": 500}
    found = gf.inverse_hessian_product(model, loss, batch, v, **call)
    assert found.converged and found.negative_curvature is None and found.x.dtype == torch.float64
    true = ((v - damped @ found.x).norm() / v.norm()).item()
    assert true <= 2 * tol and found.residual <= tol
    expected = torch.linalg.solve(damped, v)
    torch.testing.assert_close(found.x, expected, rtol=0.0, atol=20 * tol * expected.norm().item())
    again = gf.inverse_hessian_product(model, loss, batch, v, **call)
    assert torch.equal(found.x, again.x)


def test_gauss_newton_needs_little_damping_and_batches_count_by_their_samples():
    model, (x, y), loss = made("mlp", torch.float64)
    operator = gf.hessian_operator(model, loss, (x, y), matrix="gauss-newton")
    matrix, v = operator @ torch.eye(51), cases.normal(51, dtype=torch.float64)
    parts = [(x[:3], y[:3]), (x[3:], y[3:])]
    found = gf.inverse_hessian_product(
        model, loss, parts, v, damping=1e-3, tol=1e-9, max_iterations=500, matrix="gauss-newton"
    )
    expected = torch.linalg.solve(matrix + 1e-3 * torch.eye(51), v)
    torch.testing.assert_close(found.x, expected, rtol=1e-5, atol=1e-6 * expected.norm().item())
    some = gf.inverse_hessian_product(
        model, loss, (x, y), v[30:], damping=1.0, tol=1e-9, params=["2.*"], max_iterations=300
    )
    block = dense_hessian(model, loss, (x, y))[30:, 30:] + torch.eye(21)
    torch.testing.assert_close(some.x, torch.linalg.solve(block, v[30:]), rtol=1e-6, atol=1e-8)


def test_negative_curvature_is_said():
    spectrum = torch.cat([torch.tensor([-2.0]), torch.linspace(1.0, 3.0, 40)])
    model, v = planted(spectrum), cases.normal(41, dtype=torch.float64)
    with pytest.warns(NotConverged, match=r"with damping 0\.5 is not positive definite: .* -"):
        found = gf.inverse_hessian_product(model, constant, torch.ones(2, 1), v, damping=0.5)
    assert not found.converged and found.negative_curvature is not None
    assert -1.5 - 1e-9 <= found.negative_curvature <= 0.0  # between the least value and none
    assert found.residual > 1e-3
    damped = model.matrix + 0.5 * torch.eye(41)
    true = ((v - damped @ found.x).norm() / v.norm()).item()
    assert found.residual == pytest.approx(true, rel=1e-6)
    enough = gf.inverse_hessian_product(model, constant, torch.ones(2, 1), v, damping=2.1)
    assert enough.converged and enough.negative_curvature is None
    singular = planted(torch.zeros(5))
    with pytest.warns(NotConverged, match="a direction of curvature 0 was met"):
        found = gf.inverse_hessian_product(
            singular, constant, torch.ones(2, 1), torch.ones(5), damping=0.0
        )
    assert found.negative_curvature == 0.0 and not found.x.any() and found.residual == 1.0


def test_not_converged_is_said_with_the_true_residual():
    model = planted(torch.logspace(-6, 0, 60))
    v = cases.normal(60, dtype=torch.float64)
    with pytest.warns(NotConverged, match=r"not converged after 10 products: the residual is"):
        found = gf.inverse_hessian_product(
            model, constant, torch.ones(2, 1), v, damping=0.0, max_iterations=10, tol=1e-8
        )
    assert not found.converged and found.iterations == 10
    true = ((v - model.matrix @ found.x).norm() / v.norm()).item()
    assert found.residual == pytest.approx(true, rel=1e-6)


def test_what_rounding_took_is_found_again_or_said():
    """In float32 the recurrence's residual goes on to fall where the true one does not."""
    model = planted(torch.logspace(-4, 0, 60)).float()
    v = cases.normal(60)
    call = {"damping": 0.0, "max_iterations": 2000}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = gf.inverse_hessian_product(model, constant, torch.ones(2, 1), v, tol=1e-9, **call)
    assert not found.converged and any("model.double()" in str(one.message) for one in said)
    exact = planted(torch.logspace(-4, 0, 60)).matrix
    true = ((v.double() - exact @ found.x.double()).norm() / v.norm()).item()
    assert found.residual == pytest.approx(true, rel=0.5, abs=1e-5)
    close = gf.inverse_hessian_product(model, constant, torch.ones(2, 1), v, tol=1e-3, **call)
    assert close.converged


@pytest.mark.parametrize("scale", [1e-60, 1e60])
def test_vectors_of_any_scale(scale):
    model, batch, loss = made("mlp")
    v = cases.normal(51, dtype=torch.float64)
    plain = gf.inverse_hessian_product(model, loss, batch, v, damping=1.0)
    found = gf.inverse_hessian_product(model, loss, batch, v * scale, damping=1.0)
    torch.testing.assert_close(found.x / scale, plain.x, rtol=1e-3, atol=1e-4)
    zero = gf.inverse_hessian_product(model, loss, batch, 0 * v, damping=1.0)
    assert zero.converged and not zero.x.any() and zero.residual == 0.0 and zero.iterations == 0


def test_products_that_are_not_symmetric():
    skewed = torch.eye(6, dtype=torch.float64) * torch.arange(1, 7)
    skewed[0, 1], skewed[2, 4] = 0.5, -0.8
    v = cases.normal(6, dtype=torch.float64)
    with pytest.raises(Asymmetric):
        solve(lambda x: skewed @ x, v, damping=0.0, tol=1e-9, max_iterations=50)
    right = solve(lambda x: (skewed + skewed.mT) @ x, v, damping=0.0, tol=1e-9, max_iterations=50)
    torch.testing.assert_close((skewed + skewed.mT) @ right.x, v)


def test_bad_input():
    model, batch, loss = made("mlp")
    v = torch.ones(51)
    for change, error, message in (
        ({"damping": -0.1}, ValueError, "damping must be 0 or more and finite, not -0.1"),
        ({"damping": math.nan}, ValueError, "damping must be 0 or more and finite, not nan"),
        ({"damping": "1"}, TypeError, "damping must be a number"),
        ({"tol": 0.0}, ValueError, "tol must be positive, not 0.0"),
        ({"max_iterations": 1}, ValueError, "max_iterations must be a whole number of 2 or more"),
        ({"v": torch.ones(50)}, ValueError, "v must have shape (51,)"),
        ({"v": [1.0]}, TypeError, "v must be a real floating-point tensor, not list"),
        ({"v": v * math.inf}, ValueError, "v is not finite"),
        ({"matrix": "x"}, ValueError, "matrix must be one of hessian, gauss-newton, not 'x'"),
    ):
        arguments = {"v": v, "damping": 1.0} | change
        with pytest.raises(error, match=re.escape(message)):
            gf.inverse_hessian_product(model, loss, batch, **arguments)
    with pytest.raises(TypeError, match="damping"):
        gf.inverse_hessian_product(model, loss, batch, v)  # no default
    line = nn.Linear(3, 1, bias=False)

    def spoiled(model, x):  # its second derivative at 0 is infinite
        return model(x)[:, 0].abs().pow(1.5) + 0.0 * model(x)[:, 0] ** 2

    with pytest.raises(ValueError, match="product with the Hessian is not finite: batch 0"):
        gf.inverse_hessian_product(line, spoiled, torch.zeros(4, 3), torch.ones(3), damping=1.0)
