"""How far chains of draws are to be believed: R-hat, effective sample size, standard error."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy.stats import rankdata
from scipy.stats import t as student_t
from torch import Tensor

# Of so few parts no widening would be enough; R-hat and effective draws say so.
_LEAST_FREEDOM = 2.0


@dataclass(frozen=True)
class Mixing:
    """What chains of draws say of their mean.

    Attributes:
        mean: of all draws.
        stderr: Monte Carlo standard error of the mean, widened for few draws, which say little of
            their own spread, so that mean +- 1.96 stderr holds the truth 95 times in 100.
        rhat: near 1 where chains agree with each other, and each with itself.
        ess: number of independent draws that would be as good.
    """

    mean: float
    stderr: float
    rhat: float
    ess: float


def mixing(draws: Tensor) -> Mixing:
    """Split R-hat, effective sample size and standard error of chains' mean.

    Vehtari et al. (2021), arXiv:1903.08008: R-hat is the larger of that of the draws' ranks and
    that of the ranks of their distances from the median, each as a normal variable (section 4); the
    effective sample size, equations 10 to 13, is of the draws themselves, as it is their mean that
    it tells the error of. Chains are cut in halves first, so that one that drifts disagrees with
    itself.

    Args:
        draws: (C, D) float64, D at least 4.

    Returns:
        All NaN but the mean where fewer than four draws a chain leave nothing to say.
    """
    length = draws.shape[1] // 2
    mean = draws.mean().item()
    if length < 2:
        return Mixing(mean, math.nan, math.nan, math.nan)
    halves = torch.cat([draws[:, :length], draws[:, draws.shape[1] - length :]])
    chains = len(halves)
    within = halves.var(1).mean()
    between = halves.mean(1).var()
    variance = (length - 1) / length * within + between
    if variance <= 0:  # all draws are one number
        return Mixing(mean, 0.0, 1.0, float(draws.numel()))
    if within > 0:
        folded = (halves - halves.median()).abs()
        rhat = max(_rhat(_normal_scores(x)) for x in (halves, folded))
    else:
        rhat = math.inf
    covariance = _autocovariance(halves)
    correlation = 1.0 - (within - covariance.mean(0) * length / (length - 1)) / variance
    correlation[0] = 1.0
    total = chains * length
    # Geyer: sums of neighbours are positive and fall for a reversible chain; noise makes them not.
    pairs = correlation[: length // 2 * 2].view(-1, 2).sum(1)
    positive = int((pairs <= 0).nonzero()[0]) if (pairs <= 0).any() else len(pairs)
    falling = pairs[: max(positive, 1)].cummin(0).values
    time = max(float(2.0 * falling.sum() - 1.0), 1.0 / math.log10(max(total, 10)))
    ess = total / time
    return Mixing(mean, math.sqrt(variance / ess) * widened(total / (4.0 * time + 1.0)), rhat, ess)


def widened(freedom: float) -> float:
    """Of a standard error that is itself estimated: what makes mean +- 1.96 of it hold the truth as
    often as for one that is known.

    Args:
        freedom: independent parts of the draws that its square is the mean square of; of correlated
            draws about as many as windows of twice their correlation time on either side.
    """
    return float(student_t.ppf(0.975, max(freedom, _LEAST_FREEDOM))) / 1.96


def _rhat(halves: Tensor) -> float:
    """Equation 4, of (C, L)."""
    length, within = halves.shape[1], halves.var(1).mean()
    if not within > 0:  # every chain has one rank
        return math.inf if halves.mean(1).var() > 0 else 1.0
    return ((length - 1) / length + halves.mean(1).var() / within).sqrt().item()


def _normal_scores(x: Tensor) -> Tensor:
    """Equation 14: the ranks of all values, ties by their mean, as quantiles of a normal."""
    ranks = torch.from_numpy(rankdata(x.numpy(), axis=None).reshape(x.shape))
    return torch.special.ndtri((ranks - 0.375) / (x.numel() + 0.25))


def _autocovariance(x: Tensor) -> Tensor:
    """(C, L) -> (C, L), of each chain at lags 0 to L - 1, with the biased divisor L."""
    length = x.shape[1]
    spectrum = torch.fft.rfft(x - x.mean(1, keepdim=True), n=2 * length)
    return torch.fft.irfft(spectrum.abs() ** 2, n=2 * length)[:, :length] / length


def acceptance(
    losses: Tensor, statistics: Tensor, lr: float, nbeta: float, localization: float
) -> Tensor:
    r"""Probability with which a Metropolis test would have accepted each step (MALA).

    With U = nbeta L + localization/2 |w - w0|^2, G its gradient and D the step from w to w',
    log a = U(w) - U(w') + D.(G + G')/2 - lr/8 (|G'|^2 - |G|^2) (Roberts and Tweedie 1996).
    The losses of two steps are of two minibatches, which adds noise to it.

    Args:
        losses: (C, T) float64 at each step.
        statistics: (C, T, 4) of `geomfast.kernels.sgld.sgld_step`.
        lr, nbeta, localization: of the steps.

    Returns:
        (C, T - 1), in [0, 1]; NaN where a chain has diverged.
    """
    distance, drift, since, kick = statistics.unbind(-1)
    energy = nbeta * losses + 0.5 * localization * distance
    # The drift is lr/2 times the gradient; a step is the kick less the drift.
    along = since[:, 1:] + (kick - drift)[:, :-1]
    log = energy[:, :-1] - energy[:, 1:] + along / lr - drift.diff() / (2.0 * lr)
    return log.clamp_max(0.0).exp()


def step_bias(
    losses: Tensor, statistics: Tensor, lr: float, nbeta: float, localization: float
) -> Tensor:
    r"""What steps of finite size add to nbeta L of each draw, in the mean over draws.

    With U as above and G the gradient of a step, minibatch noise included: where |w - w0|^2 stays
    the same in the mean, E (w - w0).G = d + lr/4 E |G|^2. A quadratic U is half of (w - w0).G, and
    is lr/8 E |G|^2 above the d/2 of infinitely small steps. Of that, lr/4 localization E U belongs
    to the localization. Exact for a quadratic around w0 and all data; an upper bound with
    minibatches, whose noise falls on directions that the localization holds as well.

    Args:
        losses, statistics, lr, nbeta, localization: as for `acceptance`; the losses less those at
            w0.

    Returns:
        (C, T); NaN where a chain has diverged.
    """
    distance, drift, _, _ = statistics.unbind(-1)
    energy = nbeta * losses + 0.5 * localization * distance
    return drift / (2.0 * lr) - 0.25 * lr * localization * energy


def heating(statistics: Tensor, lr: float, momentum: float) -> float:
    r"""What the noise of minibatches adds to the mean of nbeta L, of steps with momentum.

    With u the velocity (half of a step's), l = lr/2 nbeta grad L and drift as in `sgld_step`, the
    velocity gains E[l.drift] - 2 E[u.l] in a step from the loss. It is zero for a quadratic and all
    of the data, and E|noise of l|^2 with minibatches, since that noise knows nothing of u; friction
    takes out a share of it, and (1 + c) / (1 - c) / lr times it remains in E[(w - w0).G], of which
    a quadratic energy is half. An upper bound, since localization holds its share of the noise.

    Args:
        statistics: (C, D, 4) of `geomfast.kernels.sgld.sgld_step`, of the kept draws.
        lr, momentum: of the steps.
    """
    _, along, _, with_velocity = statistics.unbind(-1)
    gained = (along - 2.0 * with_velocity).mean().item()
    return 0.5 * (1.0 + momentum) / (1.0 - momentum) / lr * gained


def degree_of_products(energies: Tensor, statistics: Tensor, lr: float) -> tuple[float, float]:
    """As `degree`, of steps with momentum, which give (w - w0).grad L of every draw.

    Args:
        energies: (C, D) float64, nbeta L of the draws less that at w0.
        statistics: (C, D, 4) of `geomfast.kernels.sgld.sgld_step`, of the same draws.
        lr: of the steps.
    """
    mixed = mixing(energies)
    if not mixed.mean > 2.0 * mixed.stderr:
        return math.nan, math.nan
    products = statistics[..., 2] * (2.0 / lr)
    value = products.mean().item() / mixed.mean
    return value, mixing((products - value * energies) / mixed.mean).stderr


def localization_effect(
    energies: Tensor, squared: Tensor, localization: float
) -> tuple[float, float]:
    r"""How much the mean of nbeta L falls with more localization, and its standard error.

    The draws are of a density as exp(-nbeta L - localization/2 |w - w0|^2), whence
    -d log E[nbeta L] / d log localization
    = localization Cov(nbeta L, |w - w0|^2 / 2) / E[nbeta L]. For a quadratic of curvature h it is
    localization / (nbeta h + localization), which is the share of 1/2 that is missing in the mean;
    of several directions it is the average by what they contribute, and a flat one contributes
    nothing.

    The covariance is that between chains at the same step, so that what all of them do together,
    such as leaving w0 along flat directions, is none; of one chain a straight line is taken out.

    Args:
        energies: (C, D) float64, nbeta L of the kept draws less that at w0.
        squared: (C, D), |w - w0|^2 of the same.
        localization: of the steps.

    Returns:
        Zeros without localization; NaN where there are fewer than four draws, or the mean is not
        two of its standard errors above zero.
    """
    if localization == 0.0:
        return 0.0, 0.0
    mixed = mixing(energies)
    if not mixed.mean > 2.0 * mixed.stderr:
        return math.nan, math.nan
    products = 0.5 * localization * _deviations(energies) * _deviations(squared)
    return _share_of_mean(products, energies, mixed.mean)


def localization_effect_of_products(
    energies: Tensor, statistics: Tensor, lr: float
) -> tuple[float, float]:
    r"""As `localization_effect`, of steps with momentum and all of the data.

    Integrating by parts, with A = nbeta L and V = nbeta (w - w0).grad L / 2, of which steps with
    momentum give every draw's: Cov(A, localization |w - w0|^2 / 2) = E[V] - Cov(A, V). |w - w0|^2
    varies with all parameters and V with those that the loss depends on, so that this knows as much
    of a large model as of a small one. Of minibatches A and V have an error in common, which their
    covariance would take for their own.

    Args:
        energies: (C, D) float64, nbeta L of the draws less that at w0.
        statistics: (C, D, 4) of `geomfast.kernels.sgld.sgld_step`, of the same draws.
        lr: of the steps.
    """
    mixed = mixing(energies)
    if not mixed.mean > 2.0 * mixed.stderr:
        return math.nan, math.nan
    half = statistics[..., 2] / lr  # V
    taken = half - _deviations(energies) * _deviations(half)
    return _share_of_mean(taken, energies, mixed.mean)


def _share_of_mean(taken: Tensor, energies: Tensor, mean: float) -> tuple[float, float]:
    """Mean of `taken`, of deviations of chains, as a share of the energies', and its error."""
    effect = taken.mean().item() / mean
    # Of a ratio of two means, each with an error; deviations are from what chains have in common.
    error = mixing((taken - effect * energies) / mean).stderr
    chains = len(energies)
    return effect, error * (math.sqrt(chains / (chains - 1)) if chains > 1 else 1.0)


def _deviations(x: Tensor) -> Tensor:
    """(C, D), whose products have the covariance as their mean."""
    chains, draws = x.shape
    if chains > 1:
        return (x - x.mean(0)) * math.sqrt(chains / (chains - 1))
    line = torch.linspace(-1.0, 1.0, draws, dtype=x.dtype)
    line /= line.norm()
    x = x - x.mean()
    return (x - (x @ line)[:, None] * line) * math.sqrt(draws / (draws - 2))


def degree(
    energies: Tensor, statistics: Tensor, lr: float, localization: float, parameters: int
) -> tuple[float, float]:
    r"""With which power of |w - w0| the loss grows where the draws are, and its standard error.

    It is E[(w - w0).grad L] / E[L]: 2 for a quadratic, k for a homogeneous polynomial of degree k
    (Euler). The numerator comes from |w - w0|^2, whose mean changes in a step by
    -2 (w - w0).drift + |drift|^2 + lr P.

    Args:
        energies: (C, D) float64, nbeta L of consecutive draws less that at w0.
        statistics: (C, D, 4) of `geomfast.kernels.sgld.sgld_step`, of the same draws.
        lr, localization: of the steps.
        parameters: P.

    Returns:
        NaN where there are fewer than four draws, or the mean is not two of its standard errors
        above zero. The error is that of a homogeneous loss: of the kicks alone, whose part in the
        change of |w - w0|^2, (2 (w - w0) + kick).kick less lr P, is known in the mean only.
    """
    mixed = mixing(energies)
    if not mixed.mean > 2.0 * mixed.stderr:
        return math.nan, math.nan
    chains, steps = len(energies), energies.shape[1] - 1
    squared, drift = statistics[:, :-1, 0], statistics[:, :-1, 1].mean().item()
    moved = (statistics[:, -1, 0] - statistics[:, 0, 0]).mean().item() / steps
    distance = squared.mean().item()
    slope = parameters + (drift - moved) / lr - localization * distance
    noise = math.sqrt((4.0 * distance / lr + 2.0 * parameters) / (chains * steps))
    # Of the steps that the slope is of.
    mean = energies[:, :-1].mean().item()
    return slope / mean, noise / abs(mean)
