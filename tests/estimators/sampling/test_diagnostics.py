"""R-hat, effective sample size and standard errors of chains whose answers are known."""

import itertools
import math

import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from arviz_stats.base import array_stats

from geomfast.estimators.sampling.diagnostics import (
    acceptance,
    degree,
    localization_effect,
    mixing,
    step_bias,
)
from geomfast.kernels.sgld import Dynamics, LangevinState, sgld_step
from tests import cases


def autoregressive(chains, draws, correlation, seed=0):
    """Stationary x' = correlation x + noise, of variance 1."""
    noise = cases.normal(chains, draws, dtype=torch.float64, seed=seed)
    x = noise.clone()
    for t in range(1, draws):
        x[:, t] = correlation * x[:, t - 1] + math.sqrt(1 - correlation**2) * noise[:, t]
    return x


def by_the_book(draws):
    """Vehtari et al. (2021), equations 10 to 13, with loops; R-hat by ArviZ, from even halves."""
    half = draws.shape[1] // 2
    chains = [*draws[:, :half], *draws[:, -half:]]
    means = torch.stack([chain.mean() for chain in chains])
    variances = torch.stack([chain.var() for chain in chains])
    within = variances.mean()
    variance = (half - 1) / half * within + means.var()

    def correlation(t):
        total = 0.0
        for chain, mean, s2 in zip(chains, means, variances, strict=True):
            away = chain - mean
            rho = (away[: half - t] @ away[t:]) / (away @ away)
            total += s2 * rho / len(chains)
        return float(1 - (within - total) / variance)

    pairs = []
    for t in range(0, half - 1, 2):
        pair = (1.0 if t == 0 else correlation(t)) + correlation(t + 1)
        if pair <= 0:
            break
        pairs.append(min([pair, *pairs[-1:]]))
    ess = len(chains) * half / (2 * sum(pairs) - 1)
    even = torch.cat([draws[:, :half], draws[:, -half:]], 1).numpy()
    rhat = array_stats.rhat(even, chain_axis=0, draw_axis=1)
    return rhat, ess, math.sqrt(variance / ess)


@pytest.mark.parametrize("correlation", [-0.3, 0.0, 0.6, 0.95])
@pytest.mark.parametrize(("chains", "draws"), [(1, 400), (4, 101), (7, 60)])
def test_as_in_the_paper(chains, draws, correlation):
    x = 3.0 + autoregressive(chains, draws, correlation)
    x += torch.arange(chains).double()[:, None] / 5
    found = mixing(x)
    rhat, ess, stderr = by_the_book(x)
    if chains > 1:  # of one alone ArviZ gives none
        assert found.rhat == pytest.approx(rhat, rel=1e-10)
    assert found.ess == pytest.approx(ess, rel=1e-8)
    # Widened by Student's t, of as many freedoms as windows of twice the correlation time.
    total = chains * (draws // 2 * 2)
    freedom = max(total / (4 * total / ess + 1), 2.0)
    widened = scipy.stats.t.ppf(0.975, freedom) / 1.96
    assert found.stderr == pytest.approx(stderr * widened, rel=1e-8)
    assert found.mean == pytest.approx(x.mean().item(), rel=1e-12)


@pytest.mark.parametrize("correlation", [-0.5, 0.0, 0.5, 0.9])
def test_autoregressive_chains_have_the_effective_draws_that_are_known(correlation):
    x = autoregressive(16, 5000, correlation)
    found = mixing(x)
    exact = x.numel() * (1 - correlation) / (1 + correlation)
    assert found.ess == pytest.approx(exact, rel=0.1)
    assert found.stderr == pytest.approx(1 / math.sqrt(exact), rel=0.1)
    assert found.rhat == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("correlation", [0.0, 0.8])
def test_the_mean_is_off_by_as_much_as_its_standard_error_says(correlation):
    every = autoregressive(4 * 400, 200, correlation).view(400, 4, 200)
    found = [mixing(x) for x in every]
    off = torch.tensor([m.mean / m.stderr for m in found])
    assert off.std().item() == pytest.approx(1.0, abs=0.12)
    assert (off.abs() <= 3).float().mean() >= 0.985


def test_chains_that_never_forget_have_few_effective_draws():
    found = mixing(autoregressive(4, 500, 0.999))
    assert found.ess < 30 and found.rhat > 1.1


def test_chains_that_disagree():
    x = cases.normal(4, 500, dtype=torch.float64)
    assert mixing(x).rhat < 1.01
    # Four of eight halves lie 3 higher, where ranks take in the tails.
    x[:2] += 3.0
    assert 1.5 < mixing(x).rhat < math.sqrt(1 + 18 / 7)


def test_chains_that_differ_in_spread_alone_disagree():
    x = cases.normal(4, 500, dtype=torch.float64)
    x[:2] *= 4.0
    assert mixing(x).rhat > 1.2


def test_a_single_chain_that_drifts_disagrees_with_itself():
    x = cases.normal(1, 600, dtype=torch.float64)
    assert mixing(x).rhat < 1.02
    assert mixing(x + torch.linspace(0, 4, 600)).rhat > 1.3


def test_draws_that_are_all_the_same():
    found = mixing(torch.full((3, 10), 7.0, dtype=torch.float64))
    assert (found.mean, found.stderr, found.rhat, found.ess) == (7.0, 0.0, 1.0, 30.0)


def test_chains_that_stand_still_apart():
    found = mixing(torch.tensor([[1.0], [2.0]]).double().expand(2, 50))
    assert found.rhat == math.inf and found.ess < 10 and found.stderr > 0.1


@pytest.mark.parametrize("draws", [1, 2, 3])
def test_too_few_draws_leave_nothing_to_say_but_the_mean(draws):
    found = mixing(torch.arange(2.0 * draws).double().view(2, draws))
    assert found.mean == (2 * draws - 1) / 2
    assert math.isnan(found.stderr) and math.isnan(found.rhat) and math.isnan(found.ess)


def test_four_draws_are_enough():
    found = mixing(cases.normal(2, 4, dtype=torch.float64))
    assert math.isfinite(found.stderr) and math.isfinite(found.rhat) and found.ess > 0


def test_the_draw_in_the_middle_of_an_odd_number_counts_in_the_mean():
    x = torch.zeros(1, 9, dtype=torch.float64)
    x[0, 4] = 9.0
    assert mixing(x).mean == 1.0


# Factors that float32 holds exactly: sqrt(lr) = 1 / 8.
LR, NBETA, LOCALIZATION = 1 / 64, 8.0, 3.0


def chain_on_a_quadratic(steps, lr, size=6, start=1.0):
    """Weights (C, T, P), excess losses and statistics (C, T) of chains in float64."""
    curvature = torch.linspace(0.5, 4.0, size, dtype=torch.float64)
    center = cases.normal(size, dtype=torch.float64, seed=1)
    weights = center + start * cases.normal(3, size, dtype=torch.float64, seed=2)
    previous = weights.clone()
    dynamics = Dynamics(lr, NBETA, LOCALIZATION)
    path, losses, statistics = [], [], []
    for step in range(steps):
        path.append(weights.clone())
        losses.append(0.5 * (curvature * weights**2).sum(1))
        state = LangevinState(weights, curvature * weights, center, dynamics, 5, previous=previous)
        statistics.append(sgld_step(state, step))

    def energy(w):
        away = w - center
        return NBETA * 0.5 * (curvature * w**2).sum(-1) + LOCALIZATION / 2 * away.square().sum(-1)

    return torch.stack(path, 1), torch.stack(losses, 1), torch.stack(statistics, 1), energy


def test_acceptance_is_that_of_a_metropolis_test():
    path, losses, statistics, energy = chain_on_a_quadratic(30, LR)

    def log_density(to, start):
        """Of a step, up to a constant."""
        start = start.clone().requires_grad_()
        (slope,) = torch.autograd.grad(energy(start).sum(), start)
        return -(to - start.detach() + LR / 2 * slope).square().sum(-1) / (2 * LR)

    before, after = path[:, :-1], path[:, 1:]
    log = energy(before) - energy(after) + log_density(before, after) - log_density(after, before)
    expected = log.clamp_max(0.0).exp()
    found = acceptance(losses, statistics, LR, NBETA, LOCALIZATION)
    assert found.shape == (3, 29) and (found < 0.99).any()
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_small_steps_are_always_accepted():
    refused = []
    for lr in (2.0**-4, 2.0**-6, 2.0**-8, 2.0**-10):
        _, losses, statistics, _ = chain_on_a_quadratic(100, lr, start=0.3)
        found = acceptance(losses, statistics, lr, NBETA, LOCALIZATION)
        refused.append(1 - found.mean().item())
    # Roberts and Rosenthal (1998): the logarithm's deviation goes as lr^(3/2).
    assert refused[0] > 0.05 and refused[-1] < 0.005
    for larger, smaller in itertools.pairwise(refused[1:]):
        assert larger / smaller == pytest.approx(8, rel=0.3)


def test_a_chain_that_has_diverged_is_not_accepted():
    _, losses, statistics, _ = chain_on_a_quadratic(8, LR)
    statistics[1, 5:] = torch.nan
    losses[1, 5:] = torch.nan
    for of in (acceptance, step_bias):
        found = of(losses, statistics, LR, NBETA, LOCALIZATION)
        assert (
            found[1, -1].isnan()
            and found[[0, 2]].isfinite().all()
            and found[1, :4].isfinite().all()
        )


def draws(curvature, localization, shape, seed=0, nbeta=10.0):
    """nbeta L and |w - w0|^2 of independent draws around the minimum of a quadratic."""
    h = torch.tensor(curvature, dtype=torch.float64)
    w = cases.normal(*shape, len(h), dtype=torch.float64, seed=seed)
    w = w / (nbeta * h + localization).sqrt()
    return 0.5 * nbeta * (h * w**2).sum(-1), w.square().sum(-1)


@pytest.mark.parametrize("shape", [(1, 8000), (2, 4000), (16, 500)])
@pytest.mark.parametrize(
    ("curvature", "localization", "expected"),
    [
        ([1.0], 10.0, 0.5),
        ([1.0, 1.0, 1.0], 100.0, 10 / 11),
        ([1.0] * 4, 0.1, 0.1 / 10.1),
        ([3.0, 0.0, 0.0], 10.0, 0.25),  # what is flat adds noise alone
        ([1.0, 9.0], 10.0, (0.5 * 0.5 + 0.9 * 0.1) / (0.5 + 0.9)),  # by what each contributes
    ],
)
def test_localization_takes_from_a_quadratic_what_is_missing(
    curvature, localization, expected, shape
):
    effect, error = localization_effect(*draws(curvature, localization, shape), localization)
    assert abs(effect - expected) <= 3 * error
    assert 0 < error <= 0.08


@pytest.mark.parametrize("chains", [1, 2, 4])
def test_the_effect_of_localization_is_off_by_as_much_as_its_error_says(chains):
    off = []
    for seed in range(200):
        found, error = localization_effect(*draws([1.0, 0.0], 10.0, (chains, 600), seed), 10.0)
        off.append((found - 0.5) / error)
    off = torch.tensor(off)
    assert abs(off.mean()) <= 0.4 and 0.8 <= off.std() <= 1.3


@pytest.mark.parametrize("chains", [1, 6])
def test_chains_that_all_leave_along_flat_directions_are_not_localized(chains):
    energies, squared = draws([3.0], 0.3, (chains, 600))
    away = torch.linspace(0.0, 2000.0, 600, dtype=torch.float64)
    rising = energies + torch.linspace(0.0, 0.02, 600, dtype=torch.float64)
    effect, error = localization_effect(rising, squared + away, 0.3)
    assert abs(effect - 0.3 / 30.3) <= 3 * error and error < 0.01
    # All draws together say that nearly all comes from there.
    both = torch.stack([rising.flatten(), (squared + away).flatten()])
    assert 0.5 * 0.3 * torch.cov(both)[0, 1] / rising.mean() > 10 * 0.3 / 30.3


def test_where_nothing_can_be_said_of_localization():
    energies, squared = draws([1.0], 10.0, (4, 100))
    assert localization_effect(energies, squared, 0.0) == (0.0, 0.0)
    for few in (energies[:, :3], energies - energies.mean(), torch.zeros_like(energies)):
        found = localization_effect(few, squared[:, : few.shape[1]], 10.0)
        assert all(math.isnan(x) for x in found)


def walk(power, steps, lr, nbeta, localization, flat=0, seed=0):
    """nbeta L and statistics of 64 chains on sum w^power / power, and flat directions."""
    weights = torch.zeros(64, 3 + flat, dtype=torch.float64)
    kicks = cases.normal(steps, *weights.shape, dtype=torch.float64, seed=seed) * math.sqrt(lr)
    energies, statistics = [], []
    for kick in kicks:
        live = weights[:, :3]
        slope = F.pad(nbeta * live ** (power - 1), (0, flat)) + localization * weights
        drift = 0.5 * lr * slope
        energies.append(nbeta * (live**power).sum(1) / power)
        statistics.append(torch.stack([weights.square().sum(1), drift.square().sum(1)], 1))
        weights = weights - drift + kick
    return torch.stack(energies, 1), F.pad(torch.stack(statistics, 1), (0, 2))


@pytest.mark.parametrize("power", [2, 4, 6])
@pytest.mark.parametrize(("flat", "localization"), [(0, 0.5), (20, 0.5), (5, 4.0)])
def test_degree_is_the_power_of_the_loss(power, flat, localization):
    """Wherever the chains are: they begin at w0, and never arrive along flat directions."""
    energies, statistics = walk(power, 1000, 0.01, 40.0, localization, flat)
    found, error = degree(energies, statistics, 0.01, localization, 3 + flat)
    assert abs(found - power) <= 3 * error
    assert error < 0.25 * power


def test_degree_is_off_by_as_much_as_its_error_says():
    off = []
    for seed in range(30):
        energies, statistics = walk(4, 30, 0.01, 40.0, 2.0, 5, seed)
        found, error = degree(energies, statistics, 0.01, 2.0, 8)
        off.append((found - 4.0) / error)
    off = torch.tensor(off)
    assert abs(off.mean()) <= 0.5 and 0.7 <= off.std() <= 1.3


def test_where_nothing_can_be_said_of_the_degree():
    energies, statistics = walk(4, 30, 0.01, 40.0, 2.0, 5)
    few = degree(energies[:, :3], statistics[:, :3], 0.01, 2.0, 8)
    nothing = degree(0.0 * energies, statistics, 0.01, 2.0, 8)
    assert all(math.isnan(x) for x in (*few, *nothing))


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.8])
@pytest.mark.parametrize("draws", [40, 72, 150])
def test_intervals_of_few_draws_hold_the_truth_95_times_in_100(draws, correlation):
    every = autoregressive(4 * 600, draws, correlation).view(600, 4, draws)
    found = [mixing(x) for x in every]
    inside = sum(abs(m.mean) <= 1.96 * m.stderr for m in found) / len(found)
    assert 0.925 <= inside <= 0.985
