"""Decay, ranks and shares of spectra: closed forms, invariances, bad input."""

import math

import numpy as np
import pytest
import torch

import geomfast as gf
from tests import cases

POWERS = torch.arange(1, 101, dtype=torch.float64)
FUNCTIONS = (
    gf.participation_ratio,
    gf.stable_rank,
    gf.first_component_share,
    gf.numerical_rank,
    gf.condition_number,
    lambda values: gf.alpha_req(values).alpha,
)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 2.7])
@pytest.mark.parametrize("scale", [1e-150, 1.0, 1e150])
def test_a_power_law_has_its_exponent(alpha, scale):
    found = gf.alpha_req(scale * POWERS ** (-alpha / 2))
    assert found.alpha.item() == pytest.approx(alpha, abs=1e-12)
    assert found.stderr.item() < 1e-12 and found.points.item() == 46
    # Of equal eigenvalues nothing varies that a line could explain.
    assert math.isnan(found.r2.item()) if alpha == 0 else found.r2.item() == pytest.approx(1.0)


def test_the_line_is_that_of_weighted_least_squares():
    values = torch.rand(3, 80, dtype=torch.float64, generator=cases.generator()) + 0.1
    found = gf.alpha_req(values, first=3, last=60)
    x, weights = np.log(np.arange(3, 61)), 1 / np.arange(3, 61)
    for row in range(3):
        y = np.log(np.sort(values[row].numpy())[::-1][2:60] ** 2)
        slope, start = np.polyfit(x, y, 1, w=np.sqrt(weights))
        left = weights @ (y - slope * x - start) ** 2
        mean = np.average(y, weights=weights)
        assert found.alpha[row].item() == pytest.approx(-slope, rel=1e-9)
        expected = 1 - left / (weights @ (y - mean) ** 2)
        assert found.r2[row].item() == pytest.approx(expected, rel=1e-9)
        spread = weights @ (x - np.average(x, weights=weights)) ** 2
        stderr = math.sqrt(left / 56 / spread)
        assert found.stderr[row].item() == pytest.approx(stderr, rel=1e-9)


def test_the_error_of_the_exponent_is_that_of_noisy_power_laws():
    noise = torch.randn(400, 200, dtype=torch.float64, generator=cases.generator())
    values = (-0.5 * torch.arange(1, 201).log() + 0.05 * noise).exp()
    # Ordered, as noise makes neighbours change places.
    found = gf.alpha_req(values.sort(-1, descending=True).values, first=1, last=None)
    assert found.alpha.mean().item() == pytest.approx(1.0, abs=0.05)
    assert found.r2.min() > 0.95


def test_only_what_is_resolved_is_fitted():
    values = POWERS**-1.0
    values[20:] = 1e-9
    found = gf.alpha_req(values)
    assert found.points.item() == 16 and found.alpha.item() == pytest.approx(2.0, abs=1e-9)
    values[7:] = 0.0
    assert math.isnan(gf.alpha_req(values).alpha.item())
    assert gf.alpha_req(values, first=1).alpha.item() == pytest.approx(2.0, abs=1e-9)


@pytest.mark.parametrize("k", [1, 2, 7])
def test_equal_values_count_alike(k):
    values = torch.zeros(12)
    values[:k] = 3.0
    assert gf.participation_ratio(values).item() == pytest.approx(k)
    assert gf.stable_rank(values).item() == pytest.approx(k)
    assert gf.numerical_rank(values).item() == k
    assert gf.first_component_share(values).item() == pytest.approx(1 / k)
    assert gf.condition_number(values).item() == math.inf
    assert gf.condition_number(values[:k]).item() == 1.0


def test_geometric_values_in_closed_form():
    ratio, k = 0.5, 40
    values = ratio ** torch.arange(k, dtype=torch.float64)
    squares = ratio**2

    def total(q):
        return (1 - q**k) / (1 - q)

    assert gf.stable_rank(values).item() == pytest.approx(total(squares))
    expected = total(squares) ** 2 / total(squares**2)
    assert gf.participation_ratio(values).item() == pytest.approx(expected)
    assert gf.numerical_rank(values, tol=1e-3).item() == 10
    assert gf.condition_number(values, resolution=0.0).item() == pytest.approx(2.0**39)


def test_against_numpy_on_matrices():
    x = cases.normal(3, 50, 20, dtype=torch.float64)
    values = gf.singular_values(x)
    assert gf.condition_number(values).tolist() == pytest.approx(np.linalg.cond(x.numpy()))
    assert gf.numerical_rank(values).tolist() == np.linalg.matrix_rank(x.numpy()).tolist()
    norms = torch.linalg.matrix_norm(x).square() / torch.linalg.matrix_norm(x, 2).square()
    assert gf.stable_rank(values).tolist() == pytest.approx(norms.tolist())


def test_centered_singular_values():
    x = cases.normal(2, 30, 8) + 100.0
    expected = torch.linalg.svdvals(x.double() - x.double().mean(-2, keepdim=True))
    assert torch.allclose(gf.singular_values(x, center=True), expected, rtol=1e-6)
    with pytest.raises(TypeError, match="center must be True or False"):
        gf.singular_values(x, center=1)
    x[0, 3, 2] = math.nan
    with pytest.raises(ValueError, match=r"x\[0, 3, 2\] is nan"):
        gf.singular_values(x, center=True)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_order_scale_and_batches_do_not_matter(function):
    values = torch.rand(4, 5, 30, dtype=torch.float64, generator=cases.generator())
    expected = function(values)
    assert expected.shape == (4, 5) and expected.dtype == torch.float64
    assert torch.allclose(function(values.flip(-1) * 1e170), expected, rtol=1e-9)
    assert torch.allclose(function(values * 1e-170), expected, rtol=1e-9)
    assert function(values[1, 2]).item() == pytest.approx(expected[1, 2].item(), rel=1e-12)
    assert function(values[:0]).shape == (0, 5)


def test_spectra_of_zeros():
    zeros = torch.zeros(2, 9)
    for rank in (gf.participation_ratio, gf.stable_rank, gf.numerical_rank):
        assert rank(zeros).tolist() == [0.0, 0.0]
    for ratio in (gf.first_component_share, gf.condition_number, FUNCTIONS[-1]):
        assert ratio(zeros).isnan().all()


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    ("values", "error", "said"),
    [
        ([1.0], TypeError, "values must be a floating-point tensor, not list"),
        (torch.tensor([1, 2]), TypeError, "floating-point tensor, not torch.int64"),
        (torch.tensor(1.0), ValueError, r"values must have shape \(..., k\)"),
        (torch.empty(3, 0), ValueError, "k >= 1"),
        (torch.tensor([1.0, -1.0]), ValueError, r"values\[1\] is -1"),
        (torch.tensor([math.nan, 1.0]), ValueError, r"values\[0\] is nan"),
    ],
)
def test_what_is_no_spectrum(function, values, error, said):
    with pytest.raises(error, match=said):
        function(values)


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda v: gf.alpha_req(v, first=0), ValueError, "first must be a whole number of 1"),
        (lambda v: gf.alpha_req(v, last=4.5), ValueError, "last must be a whole number"),
        (lambda v: gf.alpha_req(v, first=9, last=12), ValueError, "fewer than 5 eigenvalues"),
        (lambda v: gf.numerical_rank(v, tol=1.0), ValueError, "tol must be 0 or more and less"),
        (lambda v: gf.numerical_rank(v, tol="small"), TypeError, "tol must be a number"),
        (lambda v: gf.condition_number(v, resolution=-1), ValueError, "resolution must be 0"),
    ],
)
def test_bad_settings(call, error, said):
    with pytest.raises(error, match=said):
        call(POWERS)
