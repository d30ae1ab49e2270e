"""What is said of chains."""

import math
import re

import pytest
import torch

from geomfast.estimators.sampling.diagnostics import Mixing
from geomfast.estimators.sampling.verdict import Biases, verdict_of
from geomfast.kernels.sgld import Dynamics

DYNAMICS = Dynamics(2e-4, 30.0, 100.0)
GOOD = {"mean": 8.0, "stderr": 0.1, "rhat": 1.01, "ess": 900.0}


def verdict(
    lost=0, step_bias=0.05, degree=(2.0, 0.1), effect=(0.04, 0.01), least=math.nan, **changed
):
    diverged = torch.arange(4) < lost
    biases = Biases(step_bias, *degree, *effect, least)
    return verdict_of(Mixing(**GOOD | changed), diverged, biases, DYNAMICS)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "converged: R-hat 1.010, 900 effective draws"),
        ({"rhat": 1.011}, "usable: R-hat 1.011, 900 effective draws"),
        ({"ess": 99.0}, "usable: R-hat 1.010, 99 effective draws"),
        ({"rhat": 1.049, "ess": 30.0}, "usable: R-hat 1.049, 30 effective draws"),
        ({"step_bias": 0.79}, "converged: .*; finite steps and minibatches may change it by .*79$"),
        ({"step_bias": math.nan}, "converged"),  # not known
        ({"mean": -0.19, "step_bias": 0.09}, "converged"),  # zero, for all that is known
        ({"mean": 0.0, "stderr": 0.0, "step_bias": 0.0}, "converged"),
        ({"mean": 0.3, "stderr": 0.25}, "converged"),  # the bias is not seen beside the error
        ({"lost": 1}, "diverged: 1 of 4 chains, which do not count; lower lr = 0.0002"),
        ({"mean": -0.21}, "still training: .* lower lr = 0.0002, or raise localization = 100"),
        (
            {"step_bias": 0.81},
            "step too large: .* add about 0.81 to the mean of 8; lower lr = 0.0002",
        ),
        (
            {"rhat": 1.051},
            "too few draws: R-hat 1.05, 900 effective draws; more draws, or a longer",
        ),
        # Of a loss of degree 4 it is half as much, of one of degree 1 twice.
        ({"step_bias": 0.9, "degree": (4.0, 0.3)}, r"step too large: .* add 0\.45 to 0\.9 to"),
        ({"step_bias": 0.5, "degree": (1.0, 0.1)}, r"step too large: .* add 0\.5 to 1 to"),
        (
            {"step_bias": 0.5, "degree": (1.0, 0.6)},
            "converged",
        ),  # for all that is known, a quadratic
        ({"step_bias": 0.5, "degree": (-3.0, 9.0)}, "converged"),
        ({"step_bias": 0.5, "degree": (math.nan, math.nan)}, "converged"),
        (
            {"degree": (0.7, 0.1)},
            "localization too weak: chains of mean 8 are where the loss grows with the distance to "
            "the power 0.7 only .* raise localization = 100, or nbeta$",
        ),
        ({"degree": (0.7, 0.16)}, "converged"),
        ({"effect": (-65.0, 30.0)}, "converged: .* not known: -6500% ± 3000%$"),
        ({"effect": (0.0, 0.0)}, "converged: R-hat 1.010, 900 effective draws$"),  # none
        ({"effect": (math.nan, math.nan)}, "converged: R-hat 1.010, 900 effective draws$"),
        (
            {"effect": (0.098, 0.011)},
            "converged: R-hat 1.010, 900 effective draws; localization = 100 takes about 10% ± 1% "
            "of it$",
        ),
        ({"effect": (0.098, 0.05)}, "converged: R-hat 1.010, 900 effective draws$"),
        ({"effect": (0.15, 0.08)}, "converged: R-hat 1.010, 900 effective draws$"),
        (
            {"effect": (0.3, 0.2)},
            "converged: R-hat 1.010, 900 effective draws; what localization = 100 takes of it is "
            "not known: 30% ± 20%$",
        ),
        (
            {"effect": (0.41, 0.04)},
            "bound by localization: at least 8 ± .*; localization = 100 takes about 41% ± 4%; "
            "lower it$",
        ),
        ({"effect": (-0.2, 0.05)}, "localization too strong: it raises the mean of 8 by about 20%"),
        (  # one lowers, the other raises
            {"effect": (0.41, 0.04), "step_bias": 0.9},
            "step too large: .* to the mean of 8; lower lr = 0.0002; bound by localization: at "
            "least 8 ± .* takes about 41%",
        ),
        ({"effect": (1.5, 0.3)}, ".* takes about half or more; lower it"),
        ({"rhat": math.inf}, "too few draws"),
        ({"effect": (math.nan, math.nan), "least": 0.49}, "converged"),
        (
            {"effect": (math.nan, math.nan), "least": 0.51},
            "bound by localization: at least 8 ± .*; localization = 100 holds chains more than the "
            "loss does, at least 51% of every direction; lower it$",
        ),
        ({"effect": (0.04, 0.01), "least": 0.51}, "converged"),  # chains know better
        ({"ess": 29.0}, "too few draws: R-hat 1.01, 29 effective draws"),
        (dict.fromkeys(("stderr", "rhat", "ess"), math.nan), "too few draws: fewer than four"),
    ],
)
def test_what_is_said(given, expected):
    assert re.match(expected, verdict(**given))


def test_the_gravest_is_said_first():
    faults = [
        ("diverged", {"lost": 2}),
        ("still training", {"mean": -5.0}),
        ("step too large", {"step_bias": 3.0}),
        ("localization too weak", {"degree": (0.7, 0.01)}),
        ("too few draws", {"ess": 3.0}),
        ("bound by localization", {"effect": (0.5, 0.1)}),
    ]
    for i, (name, _) in enumerate(faults):
        together = {k: v for _, fault in faults[i:] for k, v in fault.items()}
        assert verdict(**together).startswith(name + ":")


def test_a_bias_beside_an_unknown_error_is_told():
    nothing = dict.fromkeys(("stderr", "rhat", "ess"), math.nan)
    assert verdict(step_bias=3.0, **nothing).startswith("step too large")
