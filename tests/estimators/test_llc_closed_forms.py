"""Local learning coefficients that are known: quadratics, regular models, linear networks."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import geomfast as gf
from geomfast.estimators.sampling.verdict import believable
from geomfast.kernels.sgld import Dynamics, LangevinState, sgld_step
from tests import cases
from tests.estimators.sampling.cases import (
    Polynomial,
    Product,
    Quadratic,
    coefficient,
    deep_linear,
    effect,
    noise,
    output,
    reduced_rank,
    silence,
)

NARROW = torch.linspace(0.2, 1.0, 400)
BROAD = torch.logspace(-2, 1, 400)
HALF_FLAT = torch.cat([torch.zeros(300), torch.linspace(0.3, 1.0, 300)])


def within(found, exact, relative):
    """The estimate, by its own error and in itself.

    What is exact here includes the localization: it may be too strong for the coefficient itself.
    """
    words = ("converged", "usable", "step too large", "bound by localization")
    assert found.verdict.startswith(words)
    assert abs(found.mean - exact) <= 3 * found.stderr
    assert abs(found.mean - exact) <= relative * exact
    assert 0 < 3 * found.stderr <= relative * exact


@pytest.mark.parametrize(
    ("curvature", "lr", "nbeta", "localization"),
    [
        (NARROW, 0.05, 10.0, 2.0),  # lr a up to 0.6
        (NARROW, 0.2, 10.0, 2.0),  # 2.4: the estimate is twice what small steps give
        (NARROW, 5e-6, 1e5, 1.0),
        (NARROW, 0.01, 1.0, 100.0),  # the localization decides
        (BROAD, 0.02, 10.0, 5.0),
        (HALF_FLAT, 0.03, 20.0, 3.0),
    ],
)
def test_quadratic(curvature, lr, nbeta, localization):
    found = gf.llc(
        Quadratic(curvature), output, silence(curvature), lr=lr, nbeta=nbeta,
        localization=localization, chains=32, draws=500, burn_in=100, stacked=True,
    )  # fmt: skip
    exact = coefficient(curvature, lr, nbeta, localization)
    within(found, exact, 0.01)
    # What finite steps add is known without another run.
    small = coefficient(curvature, 0.0, nbeta, localization)
    assert abs(found.step_bias - (exact - small)) <= 3 * found.stderr + 0.02 * (exact - small)
    assert found.verdict.startswith("step too large") == (exact - small > 0.1 * exact)
    # So is what the localization takes.
    taken = effect(curvature, lr, nbeta, localization)
    assert abs(found.localization_effect - taken) <= 3 * found.localization_effect_stderr
    assert found.localization_effect_stderr <= 0.02
    assert ("bound by localization" in found.verdict) == (taken > 0.1)
    assert abs(found.degree - 2) <= 3 * found.degree_stderr


@pytest.mark.parametrize("batch_size", [8, 64])
def test_quadratic_with_minibatches(batch_size):
    """The noise of minibatches makes the estimate larger by what the closed form says."""
    curvature = torch.cat([torch.zeros(20), torch.logspace(-1, 0.5, 60)])
    data = noise(256, curvature)
    lr, nbeta, localization = 0.02, 10.0, 2.0
    found = gf.llc(
        Quadratic(curvature), output, data, lr=lr, nbeta=nbeta, localization=localization,
        chains=64, draws=500, burn_in=100, batch_size=batch_size, stacked=True,
    )  # fmt: skip
    exact = coefficient(curvature, lr, nbeta, localization, data, batch_size)
    within(found, exact, 0.015)
    small = coefficient(curvature, 0.0, nbeta, localization)
    quiet = coefficient(curvature, lr, nbeta, localization)
    # Of the part that minibatches add the localization's share is counted as well.
    assert exact - small - 0.03 <= found.step_bias
    assert found.step_bias <= 1.02 * (quiet - small + 1.25 * (exact - quiet))


@pytest.mark.parametrize("momentum", [None, 0.0, 0.5, 0.9])
@pytest.mark.parametrize(
    ("lr", "nbeta", "localization"),
    [(0.05, 10.0, 2.0), (0.3, 10.0, 0.0), (2e-5, 1e5, 100.0)],
)
def test_stationary_variances(lr, nbeta, localization, momentum):
    """1 / a at every step size with momentum, 1 / (a (1 - lr a / 4)) without."""
    curvature = torch.tensor([0.3, 0.5, 0.7, 0.8, 0.9, 1.0]).repeat(21)
    center = torch.linspace(-1.0, 1.0, 126)
    weights = center.repeat(500, 1)
    dynamics = Dynamics(lr, nbeta, localization, momentum)
    velocity = None if momentum is None else torch.zeros_like(weights)
    total, kept = torch.zeros(126, dtype=torch.float64), 200
    for step in range(100 + kept):
        gradients = curvature * (weights - center)
        state = LangevinState(weights, gradients, center, dynamics, 1, velocity=velocity)
        sgld_step(state, step)
        if step >= 100:
            total += (weights - center).double().square().mean(0)
    a = nbeta * curvature[:6].double() + localization
    found = (total / kept).view(21, 6).mean(0)
    expected = 1 / (a * (1 - lr * a / 4)) if momentum is None else 1 / a
    torch.testing.assert_close(found, expected, rtol=0.01, atol=0.0)


@pytest.mark.parametrize("momentum", [0.0, 0.6])
@pytest.mark.parametrize(
    ("curvature", "lr", "nbeta", "localization"),
    [
        (NARROW, 0.2, 10.0, 2.0),  # lr a up to 2.4, where plain steps give twice as much
        (NARROW, 0.3, 10.0, 2.0),  # 3.6
        (BROAD, 0.02, 10.0, 5.0),
        (HALF_FLAT, 0.03, 20.0, 3.0),
    ],
)
def test_quadratic_with_momentum(curvature, lr, nbeta, localization, momentum):
    """Steps of any stable size add nothing."""
    found = gf.llc(
        Quadratic(curvature), output, silence(curvature), lr=lr, nbeta=nbeta, momentum=momentum,
        localization=localization, chains=32, draws=500, burn_in=100, stacked=True,
    )  # fmt: skip
    within(found, coefficient(curvature, 0.0, nbeta, localization), 0.01)
    assert abs(found.step_bias) <= 3 * found.stderr
    taken = effect(curvature, 0.0, nbeta, localization)
    assert abs(found.localization_effect - taken) <= 3 * found.localization_effect_stderr
    assert abs(found.degree - 2) <= 0.001 + 3 * found.degree_stderr
    assert math.isnan(found.acceptance)


@pytest.mark.parametrize(("momentum", "lr"), [(0.0, 0.05), (0.5, 0.05), (0.8, 0.02)])
def test_quadratic_with_momentum_and_minibatches(momentum, lr):
    """What the noise of minibatches adds is known without another run."""
    curvature = torch.logspace(-1, 0.5, 60)
    data, nbeta, localization = noise(256, curvature), 10.0, 0.5
    found = gf.llc(
        Quadratic(curvature), output, data, lr=lr, nbeta=nbeta, localization=localization,
        momentum=momentum, chains=32, draws=500, burn_in=100, batch_size=16, stacked=True,
    )  # fmt: skip
    added = found.mean - coefficient(curvature, 0.0, nbeta, localization)
    assert added > 10 * found.stderr
    # An upper bound, by the localization's share of the noise.
    assert 0.96 * added - 3 * found.stderr <= found.step_bias <= 1.1 * added + 3 * found.stderr


def test_linear_regression_with_minibatches():
    """d / 2, and closer where the known effects of localization and steps are taken out."""
    n, d = 1000, 20
    x = cases.normal(n, d, dtype=torch.float64)
    y = x @ cases.normal(d, dtype=torch.float64, seed=1) + cases.normal(n, seed=2).double()
    model = nn.Linear(d, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.linalg.lstsq(x, y[:, None]).solution.T)
    found = gf.llc(
        model, lambda m, b: 0.5 * (m(b[0])[:, 0] - b[1]).square(), (x.float(), y.float()),
        lr=2e-4, localization=1.0, chains=96, draws=900, burn_in=200, batch_size=100,
        stacked=True,
    )  # fmt: skip
    assert found.nbeta == n / math.log(n)
    assert believable(found.verdict)
    assert abs(found.mean - d / 2) <= 0.05 * d / 2 and found.stderr <= 0.015 * d / 2
    small = coefficient(torch.linalg.eigvalsh(x.T @ x / n), 0.0, found.nbeta, 1.0)
    assert abs(found.mean - found.step_bias - small) <= 3 * found.stderr


def test_logistic_regression_with_minibatches():
    n, d = 4000, 8
    x = cases.normal(n, d, dtype=torch.float64)
    chances = torch.sigmoid(x @ cases.normal(d, dtype=torch.float64, seed=1) / 2)
    y = (chances > torch.rand(n, dtype=torch.float64, generator=cases.generator(2))).double()
    w = torch.zeros(d, dtype=torch.float64)
    for _ in range(20):  # Newton
        p = torch.sigmoid(x @ w)
        w -= torch.linalg.solve(x.T @ ((p * (1 - p))[:, None] * x), x.T @ (p - y))
    model = nn.Linear(d, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(w)

    def loss(model, batch):
        return F.binary_cross_entropy_with_logits(model(batch[0])[:, 0], batch[1], reduction="none")

    found = gf.llc(
        model, loss, (x.float(), y.float()), lr=3e-4, localization=1.0, chains=96, draws=900,
        burn_in=200, batch_size=200, stacked=True,
    )  # fmt: skip
    assert believable(found.verdict)
    assert abs(found.mean - d / 2) <= 0.05 * d / 2 and found.stderr <= 0.02 * d / 2


def test_theory_of_linear_networks():
    values = [
        reduced_rank(*case) for case in ((5, 3, 5, 0), (5, 5, 5, 1), (5, 5, 5, 2), (5, 5, 5, 3))
    ]
    assert values == [6.5, 10.5, 11.5, 12.0]
    assert deep_linear((4, 4, 4, 4), 2) == pytest.approx(7.5)
    for m, h, n in torch.cartesian_prod(*[torch.arange(1, 8)] * 3).tolist():
        for rank in range(min(m, h, n) + 1):
            assert deep_linear((m, h, n), rank) == pytest.approx(reduced_rank(m, h, n, rank))


@pytest.mark.parametrize(
    ("widths", "rank"),
    [((5, 3, 5), 0), ((5, 5, 5), 1), ((5, 5, 5), 2), ((5, 5, 5), 3), ((4, 4, 4, 4), 2)],
)
def test_linear_networks(widths, rank):
    """Singular: the coefficient is far below half of the 30, 50 and 48 parameters.

    The population loss at the temperature of 10^4 samples. Its largest curvature is 2, and near 0
    at rank 0, where all of it is degenerate. Steps of this size add up to 6%. That samples are
    finite, and that short chains do not reach the ends of flat directions, takes as much away.
    """
    nbeta = 1e4 / math.log(1e4)
    found = gf.llc(
        Product(widths, rank), output, torch.zeros(1), lr=(0.1 if rank else 0.3) / nbeta,
        nbeta=nbeta, localization=1.0, chains=256, draws=1200, burn_in=600, stacked=True,
    )  # fmt: skip
    exact = deep_linear(widths, rank)
    assert believable(found.verdict)
    assert 0.01 <= found.stderr <= 0.1
    assert abs(found.mean - exact) <= 0.1 * exact
    assert 0 < found.step_bias <= 0.07 * exact
    # Flat directions, which chains never reach the ends of, are no localization; it takes 3% at
    # rank 0, where all is degenerate, and less elsewhere.
    assert abs(found.localization_effect) <= (0.02 if rank else 0.04)
    assert abs(found.degree - 2) > 2 * found.degree_stderr if rank == 0 else found.degree > 1.9


NBETA = 1e4 / math.log(1e4)
SINGULAR = {
    "w^4": (lambda w: w[0] ** 4, 1, 1 / 4),
    "w^6": (lambda w: w[0] ** 6, 1, 1 / 6),
    "(x w^2)^2": (lambda w: (w[0] * w[1] ** 2) ** 2, 2, 1 / 4),
    "x^2 + w^4": (lambda w: w[0] ** 2 + w[1] ** 4, 2, 3 / 4),
    "(x - w^2)^2, and flat ones": (lambda w: (w[0] - w[1] ** 2) ** 2, 12, 1 / 2),
    "quadratic, and flat ones": (lambda w: 0.5 * w[:4].square().sum(), 12, 2.0),
}


@pytest.mark.parametrize(
    ("name", "localization", "lr", "wrong"),
    [
        ("w^4", 300.0, 2e-4, True),
        ("w^4", 1.0, 5e-4, False),
        ("w^6", 100.0, 1e-3, True),
        ("(x w^2)^2", 100.0, 1e-3, True),
        ("x^2 + w^4", 1000.0, 1e-4, True),
        ("x^2 + w^4", 3.0, 2e-4, False),
        ("(x - w^2)^2, and flat ones", 1000.0, 1e-4, True),
        ("(x - w^2)^2, and flat ones", 30.0, 1e-4, False),
        ("quadratic, and flat ones", 1000.0, 1e-4, True),
        ("quadratic, and flat ones", 30.0, 2e-4, False),
    ],
)
def test_a_localization_that_makes_another_coefficient_of_it_is_named(
    name, localization, lr, wrong
):
    f, size, exact = SINGULAR[name]
    found = gf.llc(
        Polynomial(f, size), output, torch.zeros(1, 1), lr=lr, nbeta=NBETA,
        localization=localization, chains=64, draws=700, burn_in=500, stacked=True,
    )  # fmt: skip
    off = abs(found.mean - exact) > max(0.15 * exact, 3 * found.stderr)
    assert off == wrong
    assert ("bound by localization" in found.verdict) == wrong
    assert believable(found.verdict) != wrong


def test_the_default_localization_on_a_normal_crossing():
    """(x w^2)^2, of two million samples: 0.067 at 100, by quadrature 0.0660; 1/4 is right."""
    found = gf.llc(
        Polynomial(SINGULAR["(x w^2)^2"][0], 2), output, torch.zeros(1, 1), lr=3e-4, nbeta=1.45e5,
        chains=64, draws=600, burn_in=300, stacked=True,
    )  # fmt: skip
    assert found.mean == pytest.approx(0.066, abs=3 * found.stderr + 0.004)
    assert found.verdict.startswith("bound by localization: at least 0.0")
    assert found.verdict.endswith("localization = 100 takes about half or more; lower it")


def test_what_steps_add_to_a_quartic_is_half_of_what_they_add_to_a_quadratic():
    found = gf.llc(
        Polynomial(lambda w: w.pow(4).sum(), 20), output, torch.zeros(1, 1), lr=3e-3, nbeta=NBETA,
        localization=1.0, chains=64, draws=600, burn_in=200, stacked=True,
    )  # fmt: skip
    small = 20 * 0.2468  # by quadrature at this localization, without steps
    added = found.mean - small
    assert abs(found.degree - 4) <= 3 * found.degree_stderr and found.degree_stderr <= 0.3
    # To take it away would be wrong by many errors.
    assert found.mean - found.step_bias < small - 8 * found.stderr
    assert abs(added - found.step_bias * 2 / found.degree) <= 3 * found.stderr + 0.2 * added
    assert "step too large: finite steps and minibatches add 0." in found.verdict
