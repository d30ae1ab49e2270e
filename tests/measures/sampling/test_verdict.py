"""What is said of chains."""

import math
import re

import pytest
import torch

from geomfast.kernels.sgld import Dynamics
from geomfast.measures.sampling.diagnostics import Mixing
from geomfast.measures.sampling.verdict import verdict_of

DYNAMICS = Dynamics(2e-4, 30.0, 100.0)
GOOD = {"mean": 8.0, "stderr": 0.1, "rhat": 1.01, "ess": 900.0}


def verdict(lost=0, step_bias=0.2, **changed):
    diverged = torch.arange(4) < lost
    return verdict_of(Mixing(**GOOD | changed), diverged, step_bias, DYNAMICS)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "converged: R-hat 1.01, 900 effective draws"),
        ({"rhat": 1.099, "ess": 20.0}, "converged: R-hat 1.10, 20 effective draws"),
        ({"step_bias": 0.79}, "converged"),
        ({"step_bias": math.nan}, "converged"),  # a preconditioner
        ({"mean": -0.19, "step_bias": 0.09}, "converged"),  # zero, for all that is known
        ({"mean": 0.0, "stderr": 0.0, "step_bias": 0.0}, "converged"),
        ({"mean": 0.3, "stderr": 0.25}, "converged"),  # the bias is not seen beside the error
        ({"lost": 1}, "diverged: 1 of 4 chains, which do not count; lower lr = 0.0002"),
        ({"mean": -0.21}, "still training: .* lower lr = 0.0002, or raise localization = 100"),
        (
            {"step_bias": 0.81},
            "step too large: .* add about 0.81 to the mean of 8; lower lr = 0.0002",
        ),
        ({"rhat": 1.11}, "too few draws: R-hat 1.11, 900 effective draws; more draws, or a longer"),
        ({"rhat": math.inf}, "too few draws"),
        ({"ess": 19.0}, "too few draws: R-hat 1.01, 19 effective draws"),
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
        ("too few draws", {"ess": 3.0}),
    ]
    for i, (name, _) in enumerate(faults):
        together = {k: v for _, fault in faults[i:] for k, v in fault.items()}
        assert verdict(**together).startswith(name + ":")


def test_a_bias_beside_an_unknown_error_is_told():
    nothing = dict.fromkeys(("stderr", "rhat", "ess"), math.nan)
    assert verdict(step_bias=3.0, **nothing).startswith("step too large")
