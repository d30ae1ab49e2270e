"""Matrices and gradients of any scale, and densities of values that agree."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import geomfast as gf
from geomfast.estimators.curvature.density import spectral_density
from geomfast.estimators.curvature.lanczos import eigenpairs, near, random_vector
from geomfast.estimators.curvature.rescaled import Rescaled, times_two_to
from geomfast.estimators.curvature.trace import hutch_plus_plus
from tests.estimators.curvature.cases import planted

MATRIX = planted(torch.cat([torch.tensor([3.0, 2.0, -1.5]), torch.linspace(-0.5, 0.5, 40)])).matrix
SCALES = [1e-36, 1e-30, 1e-24, 1e-15, 1e-3, 1e9, 1e19, 1e30, 1e36]


def measured(product: Any, like: Tensor, unit: float) -> dict[str, Tensor]:
    """All that has the units of the matrix, in terms of the given one."""
    found = eigenpairs(
        product, random_vector(like, 43, 0), k=2, ends="both", tol=1e-4, max_iterations=200
    )
    trace = hutch_plus_plus(product, like, 43, 30, 0)
    density = spectral_density(product, like, 43, probes=3, iterations=9, seed=0, width=0.1 * unit)
    own = spectral_density(product, like, 43, probes=3, iterations=9, seed=0)
    assert found.converged
    return {
        "values": found.values / unit,
        "residuals": found.residuals / unit,
        "trace": torch.tensor([trace.mean / unit, trace.stderr / unit]),
        "grid": density.grid / unit,
        "nodes": density.nodes / unit,
        "density": density.density * unit,
        "stderr": density.stderr * unit,
        "width": torch.tensor([density.width / unit, own.width / unit]),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", SCALES)
def test_every_measure_at_every_scale(scale: float, dtype: torch.dtype):
    matrix = MATRIX.to(dtype)
    expected = measured(matrix.mv, matrix[0], 1.0)
    found = measured(lambda v: scale * (matrix @ v), matrix[0], scale)
    # Entries near the smallest that float32 holds have lost some of their bits.
    rounding = 1e-9 if dtype == torch.float64 else 1e-2 if scale == 1e-36 else 1e-4
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, rtol=rounding, atol=rounding, equal_nan=True, msg=name
        )


@pytest.mark.parametrize("exponent", [-110, -60, 45, 100])
def test_a_power_of_two_changes_no_bit(exponent: int):
    matrix = MATRIX.float()
    plain = measured(matrix.mv, matrix[0], 1.0)
    found = measured(lambda v: times_two_to(matrix @ v, exponent), matrix[0], 2.0**exponent)
    for name, value in plain.items():
        if exponent > 0 or name != "residuals":  # some are less than float32 holds
            torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6, equal_nan=True)


def test_everyday_products_are_handed_through():
    calls: list[Tensor] = []

    def product(v: Tensor) -> Tensor:
        calls.append(1e-9 * v)
        return calls[-1]

    scaled = Rescaled(product)
    assert scaled(torch.ones(3)) is calls[0] and scaled.exponent == 0
    assert scaled(torch.ones(3)) is calls[1]
    assert scaled.undone(2.5) == 2.5


def test_zeros_first_and_what_is_not_finite():
    given = [torch.zeros(3), torch.full((3,), 3e-30), torch.full((3,), 5e-31)]
    remaining = iter(given)
    scaled = Rescaled(lambda v: next(remaining))
    assert not scaled(torch.ones(3)).any() and scaled.exponent == 0
    assert 0.25 <= scaled(torch.ones(3)).max() <= 2.0
    assert scaled(torch.ones(3)).max() == times_two_to(given[2], -scaled.exponent).max()
    for wrong in (math.nan, math.inf):
        with pytest.raises(FloatingPointError, match="not finite"):
            eigenpairs(
                lambda v, wrong=wrong: wrong * v, torch.ones(4), k=1, ends="largest", tol=1e-3,
                max_iterations=9,
            )  # fmt: skip


@pytest.mark.parametrize("scale", [1e-40, 1e-30, 1e-22, 1.0, 1e20, 1e37])
def test_a_start_of_any_scale(scale: float):
    start = random_vector(torch.empty(0), 50, 0)
    noise = random_vector(torch.empty(0), 50, 1)
    expected = start.double() / start.double().norm() + 0.2 * noise / noise.norm()
    for given in (scale * start, scale * start.double(), torch.stack([scale * start] * 2)):
        tolerance = 1e-3 if scale == 1e-40 else 1e-6
        torch.testing.assert_close(near(given, noise), expected.float(), rtol=0.0, atol=tolerance)
    tiny = near(1e-200 * start.double(), noise)
    torch.testing.assert_close(tiny, expected.float(), rtol=0.0, atol=1e-6)
    with pytest.raises(ValueError, match="finite and not zero"):
        near(torch.zeros(50), noise)
    with pytest.raises(ValueError, match="finite and not zero"):
        near(start * math.inf, noise)


@pytest.mark.parametrize("scale", [1e-30, 1e-24, 1e19, 1e30])
def test_losses_in_other_units(scale: float):
    torch.manual_seed(0)
    model = nn.Linear(40, 1, bias=False)
    x, y = torch.randn(60, 40), torch.randn(60)
    exact = torch.linalg.eigvalsh(2.0 * (x.double().mT @ x.double()) / 60).flip(0)

    def loss(model: nn.Module, batch: Any) -> Tensor:
        return scale * (model(batch[0])[:, 0] - batch[1]).square()

    found = gf.hessian_top_eigenvalues(model, loss, (x, y), k=2, tol=1e-4)
    torch.testing.assert_close(found.values / scale, exact[:2], rtol=1e-4, atol=0.0)
    layers = gf.hessian_top_eigenvalues(model, loss, (x, y), tol=1e-4, per_layer=True)
    torch.testing.assert_close(layers[""].values / scale, exact[:1], rtol=1e-4, atol=0.0)
    trace = gf.hessian_trace(model, loss, (x, y), probes=40)
    assert trace.mean / scale == pytest.approx(exact.sum().item(), rel=1e-4)
    density = gf.hessian_density(model, loss, (x, y), probes=2, iterations=20)
    assert torch.trapezoid(density.density, density.grid).item() == pytest.approx(1.0, abs=1e-3)
    assert density.grid[-1] / scale == pytest.approx(exact[0].item(), rel=0.2)


# Densities


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("unit", [1.0, -3.7, 1e-12, 1e-30, 1e25])
@pytest.mark.parametrize("spread", [0.0, 1e-16, 1e-14, 1e-12, 1e-9, 1e-7, 1e-5, 1e-2])
def test_density_of_values_that_nearly_agree(unit: float, spread: float, dtype: torch.dtype):
    values = unit * (1.0 + spread * torch.linspace(0.0, 1.0, 50).double())
    diagonal = values.to(dtype)
    turned = planted(values / unit).matrix.to(dtype)
    for product in (lambda v: diagonal * v, lambda v: unit * (turned @ v)):
        for probes in (1, 3):
            found = spectral_density(product, diagonal, 50, probes=probes, iterations=10, seed=0)
            total = torch.trapezoid(found.density, found.grid).item()
            assert total == pytest.approx(1.0, abs=1e-3)
            assert (found.grid.diff() > 0).all()
            middle = (found.grid * found.density).sum() / found.density.sum()
            assert middle / unit == pytest.approx(1.0 + spread / 2, abs=1e-4 + spread)


def test_widths_that_cannot_be():
    call: dict[str, Any] = {"probes": 1, "iterations": 5, "seed": 0}
    for matrix in (torch.eye(20), torch.eye(20).double(), 1e30 * torch.eye(20)):
        unit = matrix[0, 0].item()
        with pytest.raises(ValueError, match=r"too narrow for 1024 points over .* at least"):
            spectral_density(matrix.mv, matrix[0], 20, width=1e-14 * unit, **call)
        for width in (math.inf, math.nan, 1e308 * unit if unit == 1 else math.inf):
            with pytest.raises(ValueError, match="cannot be shown in float64"):
                spectral_density(matrix.mv, matrix[0], 20, width=width, **call)
        found = spectral_density(matrix.mv, matrix[0], 20, width=0.5 * unit, **call)
        assert found.width == 0.5 * unit
    with pytest.raises(ValueError, match="width must be finite, not inf"):
        gf.hessian_density(nn.Linear(2, 1), lambda m, x: m(x)[:, 0], torch.ones(3, 2), width=1e999)
    with pytest.raises(ValueError, match="width must be positive, not nan"):
        gf.hessian_density(
            nn.Linear(2, 1), lambda m, x: m(x)[:, 0], torch.ones(3, 2), width=math.nan
        )
    zero = torch.zeros(20, 20)
    found = spectral_density(zero.mv, zero[0], 20, **call)
    assert torch.trapezoid(found.density, found.grid).item() == pytest.approx(1.0, abs=1e-6)


# Standard errors of few probes


@pytest.mark.parametrize("probes", [6, 7, 8, 10, 15, 30])
@pytest.mark.parametrize("name", ["many", "few large", "decay", "blocks"])
def test_two_standard_errors_hold_the_trace(name: str, probes: int):
    generator = torch.Generator().manual_seed(1)
    matrix = {
        "many": planted(torch.randn(60, generator=generator) + 0.3).matrix,
        "few large": planted(
            torch.cat([torch.tensor([100.0, 50.0, 49.9, -30.0]), torch.linspace(-1, 1, 60)])
        ).matrix,
        "decay": planted(torch.arange(1.0, 61.0) ** -1.5).matrix,
        "blocks": torch.block_diag(*[i * torch.ones(7, 7) for i in range(1, 9)]).double(),
    }[name]
    seeds, exact = 300, matrix.trace().item()
    within = 0
    for seed in range(seeds):
        found = hutch_plus_plus(matrix.mv, matrix[0], len(matrix), probes, seed)
        within += abs(found.mean - exact) <= 2 * found.stderr + 1e-9
    # 95% and no less: three standard errors of 300 draws below it.
    assert within >= seeds * 0.95 - 3 * math.sqrt(seeds * 0.95 * 0.05)
