"""Which step size and localization to sample the local learning coefficient with."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from geomfast.estimators.batches import batches_of, count
from geomfast.estimators.checks import LossFunction
from geomfast.estimators.entries import select_entries
from geomfast.estimators.llc import LLC, AllChainsDiverged, llc
from geomfast.estimators.sampling.chains import size_and_norm
from geomfast.estimators.sampling.rules import (
    NEAR,
    STABLE,
    believable,
    max_energy_curvature,
    usual_nbeta,
)
from geomfast.estimators.sampling.verdict import settled
from geomfast.kernels import sgld

#: A trace is flat where its last quarter differs from the one before by at most this share of the
#: coefficient, or two of its standard errors; two coefficients agree where they differ by no more.
TOLERANCE = 0.1
#: Chains have arrived where |w - w0|^2 grows by no more than this share between the same quarters.
#: It is a sum over all parameters, which tells better than a loss does.
SPREAD = 0.05


@dataclass(frozen=True)
class Trial:
    """One setting that was tried.

    Attributes:
        lr, localization: the setting.
        estimate: of :func:`geomfast.llc`; None where it was not run, or all chains diverged.
        verdict: in words: converged, or why not.
        converged: whether the estimate can be believed as far as this setting alone tells.
        drift: of the coefficient's trace, from its last but one quarter to its last.
        reach: distance of the last draws from w0, as a share of |w0|.
        agrees: whether the next smaller lr that was tried gives the same or, where that has not
            converged, the next larger; None where neither has converged.
        localized: whether it would have converged but for the localization, which makes the
            coefficient another one.
    """

    lr: float
    localization: float
    estimate: LLC | None
    verdict: str
    converged: bool = False
    drift: float = math.nan
    reach: float = math.nan
    agrees: bool | None = None
    localized: bool = False

    @property
    def settled(self) -> bool:
        """Whether its chains are where they belong, with the localization that they have."""
        return self.converged or self.localized


@dataclass(frozen=True)
class Calibration:
    """What a grid of settings says.

    Attributes:
        trials: by localization and lr, both ascending.
        recommended: the one to use; None where none is fit.
        reason: one sentence, also where none is.
        curvature: that unstable settings were told by.
    """

    trials: list[Trial]
    recommended: Trial | None
    reason: str
    curvature: float | None


def calibrate(
    model: nn.Module,
    loss_fn: LossFunction,
    data: Any,
    *,
    lrs: Iterable[float],
    localizations: Iterable[float],
    curvature: float | None = None,
    progress: Callable[[Trial], None] = lambda trial: None,
    **options: Any,
) -> Calibration:
    """Samples with every lr and every localization, and recommends a setting.

    Args:
        model, loss_fn, data: as in :func:`geomfast.llc`.
        lrs, localizations: of the grid.
        curvature: largest eigenvalue of the Hessian of the mean loss, where it is known. Settings
            whose chains cannot be stable are not run.
        progress: called with every trial when it is done.
        options: the others of :func:`geomfast.llc`, the same for all.

    Returns:
        The trials and what :func:`recommend` makes of them.

    Raises:
        ValueError: as :func:`geomfast.llc`, but where all chains of a trial have diverged.
    """
    batches = batches_of(data)
    nbeta = options.get("nbeta")
    if nbeta is None:
        samples = sum(count(batch) for batch in batches)
        nbeta = usual_nbeta(samples)
    norm = _norm(model, options.get("params"))
    burn_in = options.setdefault("burn_in", 50)
    ascending = sorted(set(lrs))
    trials = []
    for localization, lr in itertools.product(sorted(set(localizations)), ascending):
        most = max_energy_curvature(localization, nbeta, curvature)
        if lr * most >= STABLE:
            verdict = f"skipped: unstable, chains need lr below {STABLE / most:.2g}"
            trial = Trial(lr, localization, None, verdict)
        else:
            found = attempt(model, loss_fn, batches, lr=lr, localization=localization, **options)
            trial = judged(lr, localization, found, norm=norm, burn_in=burn_in)
        trials.append(trial)
        progress(trial)
    trials = compared(trials)
    return Calibration(trials, *recommend(trials), curvature)


def attempt(model: nn.Module, loss_fn: LossFunction, data: Any, **options: Any) -> LLC | None:
    """:func:`geomfast.llc`; None where all chains have diverged."""
    try:
        return llc(model, loss_fn, data, **options)
    except AllChainsDiverged:
        return None


def backend(model: nn.Module) -> str:
    """Name of the backend that takes the chains' steps."""
    return sgld.OP.backend_for(next(model.parameters()))


def judged(
    lr: float, localization: float, found: LLC | None, *, norm: float, burn_in: int
) -> Trial:
    """What an estimate says of its setting.

    Args:
        lr, localization: the setting.
        found: the estimate; None where all chains have diverged.
        norm: |w0|.
        burn_in: steps before the draws that count.
    """
    if found is None:
        return Trial(lr, localization, None, "diverged: all chains")
    good = ~found.diverged
    trace = found.nbeta * found.excess_trace[good].mean(0)
    quarter = max(len(trace) // 4, 1)
    drift = (trace[-quarter:].mean() - trace[-2 * quarter : -quarter].mean()).item()
    squared = found.distance[good].square().mean(0)
    before, last = squared[-2 * quarter : -quarter].mean().item(), squared[-quarter:].mean().item()
    reach = math.sqrt(last) / norm if norm else math.inf
    verdict = found.verdict
    fit = settled(verdict)
    localized = fit and not believable(verdict)
    # The mean of a quarter knows less than that of all draws.
    error = 2.0 * found.stderr * math.sqrt(2.0 * (len(trace) - burn_in) / quarter)
    if fit and abs(drift) > max(TOLERANCE * abs(found.mean), error):
        fit = False
        verdict = f"drifting: {drift:+.2g} from the last but one quarter of the trace to the last"
    if fit and last > (1.0 + SPREAD) * before:
        fit = False
        verdict = (
            f"spreading: |w - w0|^2 grew by {last / before - 1.0:.0%} from the last but one "
            "quarter to the last; more draws, or a larger lr"
        )
    return Trial(
        lr,
        localization,
        found,
        verdict,
        converged=fit and not localized,
        drift=drift,
        reach=reach,
        localized=fit and localized,
    )


def compared(trials: Sequence[Trial]) -> list[Trial]:
    """The trials with `agrees`, from their neighbours in lr at the same localization."""
    found = []
    for trial in trials:
        row = [t for t in trials if t.localization == trial.localization]
        smaller = [t for t in row if t.lr < trial.lr][-1:]
        larger = [t for t in row if t.lr > trial.lr][:1]
        near = [t for t in smaller + larger if t.settled]
        agrees = _agree(trial, near[0]) if trial.settled and near else None
        found.append(replace(trial, agrees=agrees))
    return found


def recommend(trials: Sequence[Trial]) -> tuple[Trial | None, str]:
    """The setting to use, and why in one sentence.

    Fit is a setting that has converged: no chain diverged, no negative coefficient, no bias of
    finite steps beyond the error, R-hat and effective draws sufficient, the trace flat; whose
    chains stay within half of |w0|, so that what they see is still around w0; and whose coefficient
    is that of the neighbouring lr. Of the fit ones it is the weakest localization, since the pull
    itself lowers the coefficient, and there the largest lr, whose draws depend on each other least.
    Where it lowers it at all fit settings, the weakest is still the best, and the reason tells.

    The acceptance of a Metropolis test is no criterion: it is a product over all parameters, near 1
    where chains have not moved yet and near 1/2 where they are where they belong.

    Args:
        trials: of :func:`compared`.
    """
    settled = [trial for trial in trials if trial.settled]
    near = [trial for trial in settled if trial.reach <= NEAR]
    fit = [trial for trial in near if trial.agrees]
    if not settled:
        return None, "No setting has converged: try more draws, or a stronger localization."
    if not near:
        return None, (
            "Chains converge only where they leave the model, by more than "
            f"{NEAR:.0%} of |w0|: try a stronger localization."
        )
    if not fit:
        return None, (
            "No setting that has converged is confirmed by a neighbouring lr: try lr in smaller "
            "steps, or more draws."
        )
    fit = [trial for trial in fit if trial.converged] or fit
    weakest = min(trial.localization for trial in fit)
    best = max((t for t in fit if t.localization == weakest), key=lambda t: t.lr)
    assert best.estimate is not None
    return best, (
        f"{best.localization:g} is the weakest localization that keeps converged chains within "
        f"{NEAR:.0%} of |w0| (they reach {best.reach:.0%}), and {best.lr:g} the largest lr there "
        f"whose coefficient, {best.estimate.mean:.3g} ± {best.estimate.stderr:.2g}, is that of the "
        "neighbouring lr." + (f" But its {best.verdict}." if best.localized else "")
    )


def _agree(a: Trial, b: Trial) -> bool:
    assert a.estimate is not None and b.estimate is not None
    x, y = a.estimate, b.estimate
    error = 2.0 * math.hypot(x.stderr, y.stderr)
    return abs(x.mean - y.mean) <= max(error, TOLERANCE * max(abs(x.mean), abs(y.mean)))


def _norm(model: nn.Module, params: Iterable[str] | None) -> float:
    """|w0|, of the parameters that are sampled."""
    parameters = select_entries(model, params)
    return size_and_norm(parameters)[1]
