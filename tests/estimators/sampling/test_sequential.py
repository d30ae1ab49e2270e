"""Chains that run until a standard error is met: when they stop, and that what they say holds."""

import math

import numpy as np
import pytest
import scipy.signal
import torch
from torch import nn

import geomfast as gf
from geomfast.estimators.sampling.chains import ChainGroup
from geomfast.estimators.sampling.sequential import LEAST_ESS, Goal, goal_of
from tests.estimators.sampling.cases import (
    Quadratic,
    coefficient,
    noise,
    output,
    run_chains,
    sampling,
    silence,
)

CURVATURE = torch.linspace(0.3, 2.0, 12)


class Energies:
    """Chains of half the sum of squares of d autoregressive normal numbers, whose mean is d / 2."""

    def __init__(self, correlation: float, chains: int, d: int, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.correlation = correlation
        self.at = self.random.standard_normal((chains, d))
        self.found = torch.empty(chains, 0, dtype=torch.float64)

    def run(self, steps: int) -> None:
        c = self.correlation
        kicks = self.random.standard_normal((steps, *self.at.shape)) * math.sqrt(1 - c**2)
        path, _ = scipy.signal.lfilter([1.0], [1.0, -c], kicks, axis=0, zi=c * self.at[None])
        self.at = path[-1]
        new = 0.5 * torch.from_numpy(path).square().sum(2).mT
        self.found = torch.cat([self.found, new], 1)


@pytest.mark.parametrize("correlation", [0.5, 0.95])
def test_intervals_hold_what_they_say_although_chains_stop_by_their_own_error(correlation):
    """Of 400 seeds 93 to 97% of the 95% intervals, and no bias of the mean."""
    covered, values, targets = 0, [], []
    d, seeds = 12, 400
    goal = Goal(math.inf, 0.02, 10**6, math.inf)
    for seed in range(seeds):
        chains, steps = Energies(correlation, 4, d, seed), 50
        while steps:
            chains.run(steps)
            length = chains.found.shape[1]
            steps, why = goal.further(chains.found, length, 1.0)
        assert why.startswith("; the error asked for")
        mixed = gf.estimators.sampling.diagnostics.mixing(chains.found)
        assert mixed.stderr <= 0.02 * mixed.mean and mixed.ess >= LEAST_ESS
        covered += abs(mixed.mean - d / 2) <= 1.96 * mixed.stderr
        values.append(mixed.mean)
        targets.append(mixed.stderr)
    assert 0.93 <= covered / seeds <= 0.97
    mean, spread = torch.tensor(values).mean().item(), torch.tensor(values).std().item()
    assert abs(mean - d / 2) <= 3 * spread / math.sqrt(seeds) + 0.002 * d / 2
    # It is drawn for what is asked, and not for much more.
    assert 0.75 * 0.02 * d / 2 <= sum(targets) / seeds


def test_chains_that_run_on_are_those_that_ran_longer():
    for options in ({}, {"batch_size": 5}, {"momentum": 0.5}, {"batch_size": 5, "momentum": 0.0}):
        given = sampling(Quadratic(CURVATURE), noise(12, CURVATURE), steps=20, **options)
        whole = run_chains(given, 1, 3)
        group = ChainGroup(given, 1, 3)
        found = group.run(7).continued(group.run(1)).continued(group.run(12))
        for name in ("losses", "excess", "statistics", "diverged"):
            assert torch.equal(getattr(found, name), getattr(whole, name)), name


def quick(**options):
    call = {"lr": 0.1, "nbeta": 10.0, "localization": 1.0, "chains": 4, "draws": 50, "burn_in": 20}
    call |= {"stacked": True, "momentum": 0.0}
    return gf.llc(Quadratic(CURVATURE), output, silence(CURVATURE), **call | options)


@pytest.mark.parametrize("stacked", [True, False])
def test_an_error_that_is_asked_for_is_met(stacked):
    found = quick(stderr=0.1, stacked=stacked, draws=40 if stacked else 200)
    assert found.stderr <= 0.1 and found.ess >= LEAST_ESS
    draws = found.loss_trace.shape[1] - 20
    assert f"; the error asked for, 0.1, was met after {draws} draws a chain" in found.verdict
    exact = coefficient(CURVATURE, 0.0, 10.0, 1.0)
    assert abs(found.mean - exact) <= 4 * found.stderr
    if stacked:
        relative = quick(relative_stderr=0.05)
        assert relative.stderr <= 0.05 * relative.mean
        both = quick(relative_stderr=0.05, stderr=0.15)
        assert both.stderr <= min(0.15, 0.05 * both.mean)


def test_what_ends_chains_that_do_not_meet_it():
    found = quick(stderr=1e-4, max_draws=120)
    assert found.loss_trace.shape[1] == 140
    assert "; max_draws = 120 ended it at an error of" in found.verdict
    assert found.verdict.endswith("of 0.0001 asked for")
    found = quick(stderr=1e-6, max_seconds=0.3)
    assert "; max_seconds = 0.3 ended it at an error of" in found.verdict
    assert found.loss_trace.shape[1] >= 70


def test_without_an_error_chains_run_on_until_their_mean_can_be_used():
    few = quick(lr=0.002, draws=40)
    assert few.verdict.startswith("too few draws")
    more = quick(lr=0.002, draws=40, max_draws=4000)
    assert "too few draws" not in more.verdict and "asked for" not in more.verdict
    assert more.rhat <= 1.05 and more.ess >= 30
    assert 60 < more.loss_trace.shape[1] < 4020
    assert torch.equal(more.loss_trace[:, :60], few.loss_trace)
    bounded = quick(lr=0.002, draws=40, max_draws=50)
    assert bounded.loss_trace.shape[1] == 70
    assert bounded.verdict.startswith("too few draws") and "max_draws" not in bounded.verdict
    enough = quick(draws=400, max_draws=4000)
    assert enough.loss_trace.shape[1] == 420
    # Of a model that is still training more draws tell nothing.
    falling = Goal(math.inf, math.inf, 1000, math.inf)
    energies = -5.0 + 0.1 * torch.randn(4, 20, dtype=torch.float64)
    assert falling.further(energies, 20, 1.0) == (0, "")


def test_chains_that_have_diverged_do_not_run_on():
    class Cubic(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.zeros(3))

        def forward(self, x):
            return (self.w**3).sum().expand(len(x))

    with pytest.raises(ValueError, match="all 2 chains have diverged"):
        gf.llc(
            Cubic(), lambda m, x: m(x), torch.zeros(4, 1), lr=0.5, nbeta=50.0, localization=0.0,
            chains=2, draws=300, stderr=0.01,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"stderr": 0.0}, ValueError, "stderr must be positive, not 0"),
        ({"stderr": math.nan}, ValueError, "stderr must be positive, not nan"),
        ({"stderr": "2%"}, TypeError, "stderr"),
        ({"relative_stderr": -1.0}, ValueError, "relative_stderr must be positive"),
        ({"max_seconds": 1.0}, ValueError, "max_seconds = 1 goes with stderr"),
        ({"stderr": 0.1, "max_draws": 49}, ValueError, "max_draws must be draws = 50 or more"),
        ({"stderr": 0.1, "max_seconds": math.inf}, ValueError, "max_seconds must be positive"),
        ({"stderr": True}, TypeError, "stderr"),
    ],
)
def test_bad_goals(options, error, message):
    with pytest.raises(error, match=message):
        quick(**options)


def test_goals():
    assert goal_of(50, None, None, None, None) is None
    assert goal_of(50, 0.1, None, None, None) == Goal(0.1, math.inf, 20_000, math.inf)
    assert goal_of(30_000, None, 0.1, None, 5.0) == Goal(math.inf, 0.1, 30_000, 5.0)
    goal = Goal(0.1, math.inf, 1000, math.inf)
    assert goal.further(torch.empty(0, 50), 70, 1.0) == (0, "; no chain is left to draw with")
    few = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert goal.further(few, 23, 1.0) == (6, "")
    assert Goal(math.inf, 0.1, 1000, math.inf).further(torch.zeros(4, 50), 70, 1.0)[0] == 0
