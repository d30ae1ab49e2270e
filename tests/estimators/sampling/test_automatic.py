"""Settings that are found: the coefficients they give, where the ladder ends, what is refused."""

import math

import pytest
import torch
from torch import nn

import geomfast as gf
from geomfast.estimators.sampling.verdict import believable
from tests.estimators.sampling.cases import (
    Polynomial,
    Quadratic,
    coefficient,
    noise,
    output,
    silence,
)

NARROW = torch.linspace(0.2, 1.0, 100)
HALF_FLAT = torch.cat([torch.zeros(80), torch.linspace(0.3, 1.0, 80)])


class Powers(nn.Module):
    """Sum of |w_i|^k, whose coefficient is d / k."""

    def __init__(self, degree: int, d: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(d))
        self.degree = degree

    def forward(self, x):
        return (self.w.abs() ** self.degree).sum().expand(len(x))


class Cross(nn.Module):
    """x^2 y^2: coefficient 1/2 of multiplicity 2, which is approached with the logarithm of n."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(2))

    def forward(self, x):
        return self.w.square().prod().expand(len(x))


POINT = torch.zeros(4, 1)


@pytest.mark.parametrize(
    ("model", "data", "exact"),
    [
        (Quadratic(NARROW), silence(NARROW), 50.0),
        (Quadratic(HALF_FLAT), silence(HALF_FLAT), 40.0),
        (Powers(4, 10), POINT, 10 / 4),
        (Powers(8, 10), POINT, 10 / 8),
    ],
    ids=["quadratic", "half flat", "w^4", "w^8"],
)
def test_known_coefficients_without_a_setting_of_our_own(model, data, exact):
    settings = gf.calibrate_llc(model, output, data, nbeta=1000.0)
    assert len(settings.rungs) >= 3 and "times weaker gives the same" in settings.reason
    assert abs(settings.coefficient - exact) <= max(0.05 * exact, 3 * settings.stderr)
    assert settings.stderr <= 0.05 * exact
    found = gf.llc(model, output, data, relative_stderr=0.03, **settings.options)
    assert believable(found.verdict)
    assert abs(found.mean - exact) <= 4 * found.stderr + 0.1 * exact


def test_noise_of_minibatches_is_kept_small():
    curvature = torch.linspace(0.5, 2.0, 60)
    data = noise(256, curvature)
    settings = gf.calibrate_llc(
        Quadratic(curvature), output, data, batch_size=32, error=0.06, chains=8, max_steps=6000
    )
    found = gf.llc(Quadratic(curvature), output, data, relative_stderr=0.02, **settings.options)
    local = coefficient(curvature, 0.0, settings.nbeta, settings.localization)
    assert abs(found.mean - local) <= 0.08 * local
    assert settings.batch_size == 32 and settings.nbeta == pytest.approx(256 / math.log(256))


def test_a_coefficient_that_is_approached_slowly_has_a_large_error():
    """(x y)^2, of multiplicity 2: by its logarithm."""
    settings = gf.calibrate_llc(Cross(), output, POINT, nbeta=1000.0, max_steps=6000, chains=32)
    assert settings.reason == "max_steps = 6,000 did not suffice for another rung."
    assert settings.rungs[-1].estimate.mean < 0.5
    if not math.isnan(settings.coefficient):
        assert abs(settings.coefficient - 0.5) <= 3 * settings.stderr
        assert settings.stderr > 0.02
    assert sum(rung.steps for rung in settings.rungs) <= 6000


def test_the_same_settings_each_time_and_a_table():
    found = [
        gf.calibrate_llc(
            Powers(4, 6), output, POINT, nbeta=100.0, seed=s, error=0.1, max_steps=2500
        )
        for s in (1, 1, 2)
    ]
    assert str(found[0]) == str(found[1]) != str(found[2])
    lines = str(found[0]).splitlines()
    assert len(lines) == len(found[0].rungs) + 2 and lines[-1] == found[0].conclusion
    steps = [rung.localization for rung in found[0].rungs]
    assert steps == sorted(steps, reverse=True)


def test_automatic_is_calibrated_first():
    model, data = Quadratic(NARROW), silence(NARROW)
    said: list[str] = []
    settings = gf.calibrate_llc(model, output, data, nbeta=1000.0, seed=2, progress=said.append)
    assert len(said) >= len(settings.rungs) and said[0].startswith("localization ")
    found = gf.llc(model, output, data, nbeta=1000.0, seed=2)
    longer = {"burn_in": max(25, settings.burn_in), "relative_stderr": 0.03}
    by_hand = gf.llc(model, output, data, seed=2, **settings.options | longer)
    assert found.mean == by_hand.mean and torch.equal(found.loss_trace, by_hand.loss_trace)
    assert (found.limit, found.limit_stderr) == (settings.coefficient, settings.stderr)
    assert found.verdict == f"{by_hand.verdict}. {settings.conclusion}"
    assert (found.lr, found.localization) == (settings.lr, settings.localization)


def test_a_step_for_a_given_localization():
    curvature = torch.linspace(0.5, 2.0, 60)
    data = noise(256, curvature)
    found = gf.llc(
        Quadratic(curvature), output, data, localization=10.0, batch_size=64, draws=2000, seed=1
    )
    stiff = found.nbeta * 2.0 + 10.0
    assert 1 / stiff / 64 <= found.lr <= 1.25 / stiff
    critical = math.exp(-2.0 * math.sqrt(10.0 * found.lr))
    assert found.momentum == pytest.approx(min(critical, 0.9))
    assert found.localization_least == pytest.approx(10.0 / stiff, rel=0.25)
    exact = coefficient(curvature, 0.0, found.nbeta, 10.0)
    assert abs(found.mean - exact) <= 3 * found.stderr + 0.1 * exact
    assert math.isnan(found.limit) and found.verdict.startswith("bound by localization")


def test_a_localization_above_the_curvature_is_too_strong():
    """As of small models with a default that was made for large ones."""
    torch.manual_seed(0)
    model, x = nn.Linear(300, 1, bias=False), 0.05 * torch.randn(64, 300)
    found = gf.llc(
        model, lambda m, x: 0.5 * (m(x) - model.weight.detach().sum() * 0).square()[:, 0] * 0.0
        + 0.5 * (x @ (m.weight - model.weight.detach()).T).square()[:, 0],
        x, localization=1e5, batch_size=16, draws=20,
    )  # fmt: skip
    assert found.localization_least > 0.9
    assert "bound by localization" in found.verdict or found.verdict.startswith("too few draws")


def test_chains_that_leave_the_weights_are_told():
    """Of a loss that is as high as anywhere else, no number says anything of the weights."""
    model = Polynomial(lambda w: 1.0 - torch.exp(-w.square().sum()), 200)
    weak, strong = (
        gf.llc(model, output, torch.zeros(4, 1), nbeta=50.0, localization=k, draws=400)
        for k in (20.0, 1000.0)
    )
    assert weak.degree < 0.5 and weak.verdict.startswith("localization too weak")
    assert strong.degree > 1.5 and not strong.verdict.startswith("localization too weak")


def test_norm_follows_the_weights():
    torch.manual_seed(0)
    model, x = nn.Linear(20, 1), torch.randn(100, 20)
    for factor in (1.0, 10.0):
        with torch.no_grad():
            model.weight.mul_(factor)
        norm = torch.cat([p.detach().flatten() for p in model.parameters()]).norm().item()
        found = gf.llc(model, lambda m, x: m(x).square()[:, 0], x, localization="norm", draws=20)
        assert found.localization == pytest.approx(21 / (0.25 * norm) ** 2)
        plain = gf.llc(
            model, lambda m, x: m(x).square()[:, 0], x, lr=1e-6, localization="norm", draws=20
        )
        assert plain.localization == found.localization
    nothing = Powers(4, 3)
    with pytest.raises(ValueError, match="'norm' needs weights that are not all zero"):
        gf.llc(nothing, output, POINT, localization="norm")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": "automatic"}, "lr must be a number or 'auto', not 'automatic'"),
        ({"momentum": 0.5}, "lr = 'auto' finds momentum too"),
        ({"curvature": 0.5}, "lr = 'auto' finds curvature too"),
        ({"localization": -1.0}, "localization must be 0 or more, not -1"),
        ({"localization": "half"}, "localization"),
    ],
)
def test_automatic_with_settings_of_its_own_is_refused(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        gf.llc(Quadratic(NARROW), output, silence(NARROW), **options)


def test_what_cannot_be_calibrated():
    model, data = Quadratic(NARROW), silence(NARROW)
    with pytest.raises(ValueError, match="no setting was found: max_steps = 100 did not"):
        gf.calibrate_llc(model, output, data, nbeta=1000.0, max_steps=100)
    for error in (0.0, 1.0, math.nan):
        with pytest.raises(ValueError, match="error must be between 0 and 1"):
            gf.calibrate_llc(model, output, data, error=error)
    with pytest.raises(TypeError, match="error"):
        gf.calibrate_llc(model, output, data, error="3%")
    away = nn.Linear(20, 1, bias=False)
    nn.init.constant_(away.weight, 3.0)
    x = torch.randn(100, 20, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="the model is still training: chains find a lower loss"):
        gf.calibrate_llc(away, lambda m, x: m(x).square()[:, 0], x)
