"""A ladder of localizations, each with the largest step size that changes nothing."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from geomfast.estimators.batches import Batches
from geomfast.estimators.checks import LossFunction
from geomfast.estimators.llc import LLC, AllChainsDiverged, llc
from geomfast.estimators.sampling.extrapolation import Limit, Point, extrapolate
from geomfast.estimators.sampling.rules import (
    NEAR,
    burn_in_steps,
    critical_momentum,
    saturated,
)

#: From one rung of the ladder to the next, the localization is divided by this.
RUNG = 4.0
_RUNGS = 20
#: Where localization takes more than the first, a brief look is enough; where it takes more than
#: the second, two rungs are taken at once.
_STRONG, _DECIDES = 0.6, 1.5
#: A plateau is looked for at a localization so many times weaker, and is none where that still
#: takes more than such a share.
FAR, STILL_TAKES = RUNG**3, 0.01
#: Largest effect of localization at which the ladder may end, however well it is extrapolated.
LARGEST_EFFECT = 0.1
#: How well the limit is known where the ladder may end, in errors of a rung.
KNOWN = 1.25
#: Share of the mean by which halving the step size may change it, or minibatches raise it.
STEP_SHARE = 0.03
_HALVINGS = 12


@dataclass(frozen=True)
class Rung:
    """Chains at one localization, with the largest step size that changes nothing.

    Attributes:
        lr, momentum, localization: the setting; of a rung where localization decides, as far as a
            brief look tells.
        estimate: of :func:`geomfast.llc`.
        steps: of every chain that the rung cost, all tries together.
        brief: whether it was only looked at, and does not count for the extrapolation.
    """

    lr: float
    momentum: float
    localization: float
    estimate: LLC
    steps: int
    brief: bool

    @property
    def point(self) -> Point:
        found = self.estimate
        return Point(
            self.localization,
            found.mean,
            found.stderr,
            found.localization_effect,
            found.localization_effect_stderr,
        )


class _Spent(Exception):
    """No steps, or no seconds, are left."""


@dataclass
class Ladder:
    """Tries settings, and counts what they cost."""

    model: nn.Module
    loss_fn: LossFunction
    batches: Batches
    options: dict[str, Any]
    max_steps: int
    max_seconds: float
    progress: Callable[[str], None]
    spent: int = 0
    begin: float = field(default_factory=time.monotonic)

    def sampled(self, lr: float, localization: float, error: float | None) -> LLC | None:
        """An estimate; None where a chain diverged."""
        momentum, burn_in = critical_momentum(lr, localization), burn_in_steps(lr, localization)
        draws = max(100, burn_in)
        left = self.max_steps - self.spent - burn_in
        seconds = self.max_seconds - (time.monotonic() - self.begin)
        if left < draws or seconds <= 0:
            raise _Spent
        goal = {} if error is None else {"relative_stderr": error, "max_draws": left}
        if goal and seconds < math.inf:
            goal["max_seconds"] = seconds
        self.progress(f"localization {localization:.3g}, lr {lr:.3g}")
        try:
            found = llc(
                self.model, self.loss_fn, self.batches, lr=lr, localization=localization,
                momentum=momentum, burn_in=burn_in, draws=draws, **goal, **self.options,
            )  # fmt: skip
        except AllChainsDiverged:
            self.spent += burn_in  # about: where they did is not told
            return None
        self.spent += found.loss_trace.shape[1]
        return None if found.diverged.any() else found

    def rung(self, stiff: float, localization: float, error: float | None) -> tuple[Rung, float]:
        """The largest step size that changes nothing, and the stiffness that it stands for.

        Args:
            stiff: curvature that the energy has, apart from localization, as far as it is known.
            localization: of the rung.
            error: to draw to, as a share; None for a brief look.
        """
        before, lr = self.spent, 1.0 / (stiff + localization)
        # Twice the error is a quarter of the draws, and tells a step bias that matters.
        coarse = error and 2.0 * error
        larger = self.sampled(lr, localization, coarse)
        for _ in range(_HALVINGS):
            smaller = self.sampled(lr / 2.0, localization, coarse)
            if larger and smaller and _same(larger, smaller) and not _heated(larger):
                break
            lr, larger = lr / 2.0, smaller
        else:
            raise ValueError(
                f"no step size was found at localization = {localization:.3g}: halving it "
                "continues to change the coefficient; give lr and localization"
            )
        found, momentum = larger, critical_momentum(lr, localization)
        if error is not None:
            with contextlib.suppress(_Spent):
                found = self.sampled(lr, localization, error) or larger
        cost = self.spent - before
        return Rung(lr, momentum, localization, found, cost, error is None), 1.0 / lr - localization

    def beyond(
        self, rungs: list[Rung], norm: float, limit: Limit, error: float
    ) -> tuple[bool, str]:
        """Whether a far weaker localization gives no other limit, as far as can be looked.

        A loss may have directions that count only far below a plateau of the others, as linear
        networks of several layers do.

        Args:
            rungs: so far.
            norm: |w0|.
            limit: what they say.
            error: to draw to, as a share.
        """
        last = rungs[-1]
        # Where all directions spread that localization holds, chains leave the weights below this.
        spread = (_reach(last.estimate) / (NEAR * norm)) ** 2 if norm else 0.0
        weaker = last.localization * max(1.0 / FAR, spread)
        if weaker > 0.5 * last.localization:
            return True, "chains leave the weights below it"
        try:
            found = self.sampled(last.lr, weaker, error)
        except _Spent:
            return True, f"{self.bound} did not suffice to look further"
        if found is None:
            return False, ""
        far = Rung(last.lr, critical_momentum(last.lr, weaker), weaker, found, 0, brief=False)
        further = limit_of([*rungs, far])
        same = further.known(2.0 * error, LARGEST_EFFECT) and further.agrees(limit, 2.0 * error)
        # Down there nothing is left for localization to take.
        left, uncertain = found.localization_effect, found.localization_effect_stderr
        same = same and not left - 2.0 * uncertain > STILL_TAKES
        return same, f"a localization {last.localization / weaker:.0f} times weaker gives the same"

    @property
    def bound(self) -> str:
        """What ends it, in words."""
        seconds = f" or max_seconds = {self.max_seconds:g}" if self.max_seconds < math.inf else ""
        return f"max_steps = {self.max_steps:,}{seconds}"


def climb(
    ladder: Ladder, stiff: float, nbeta: float, norm: float, error: float
) -> tuple[list[Rung], str]:
    """The rungs, down to the last that is worth taking, and why it is the last."""
    # Of a loss that is flat at the weights nothing is known but its size.
    localization = stiff or nbeta
    rungs: list[Rung] = []
    brief, limit, grown = True, Limit(), 1.0
    for _ in range(_RUNGS):
        try:
            # Where chains go further they may meet steeper places: half as much more as last time.
            begin = math.sqrt(grown) * stiff
            rung, stiff = ladder.rung(begin, localization, None if brief else error)
            grown = min(stiff / begin, RUNG**2) if begin > 0 else 1.0
        except _Spent:
            return rungs, f"{ladder.bound} did not suffice for another rung."
        found = rung.estimate
        if found.mean < -2.0 * found.stderr:
            if not rungs:
                raise ValueError(
                    "the model is still training: chains find a lower loss than its own even at "
                    f"localization = {localization:.3g}, as strong as its largest curvature"
                )
            return rungs, "Below this localization chains find a lower loss than the model's."
        if rungs and saturated(found.degree, found.degree_stderr):
            return rungs, "Below this localization the loss does not hold chains near the weights."
        if norm and rungs and _reach(found) > NEAR * norm:
            share = f"by over {NEAR:.0%} of |w0|"
            return rungs, f"Below this localization chains leave the weights {share}."
        effect, uncertain = _effect(rungs, rung)
        # Of a brief look that sees nothing yet, NaN, localization decides all.
        strong = math.isnan(effect) or effect - uncertain > _STRONG
        if brief and not strong:
            brief = False
            continue
        rungs.append(rung)
        before, limit = limit, limit_of(rungs)
        doubt = limit.error / abs(limit.value) if limit.value else math.nan
        if limit.known(KNOWN * error, LARGEST_EFFECT) and limit.agrees(before, 2.0 * error):
            agrees, looked = ladder.beyond(rungs, norm, limit, error)
            if agrees:
                return rungs, f"What localization takes is known to {doubt:.1%}; {looked}."
        brief = strong
        localization /= RUNG if effect <= _DECIDES else RUNG**2
    return rungs, f"The ladder has {_RUNGS} rungs."


def _reach(found: LLC) -> float:
    """Root mean square of |w - w0| at the end."""
    return found.distance[:, -1].square().mean().sqrt().item()


def limit_of(rungs: list[Rung]) -> Limit:
    return extrapolate([rung.point for rung in rungs if not rung.brief])


def _effect(rungs: list[Rung], rung: Rung) -> tuple[float, float]:
    """What localization takes at a rung, which is not one of the rungs yet."""
    limit = extrapolate([*(rung.point for rung in rungs[-1:]), rung.point])
    return limit.effect, limit.effect_error


def _same(a: LLC, b: LLC) -> bool:
    """Whether two coefficients differ by no more than their errors, or a few per cent."""
    allowed = max(2.0 * math.hypot(a.stderr, b.stderr), STEP_SHARE * abs(b.mean))
    return abs(a.mean - b.mean) <= allowed


def _heated(found: LLC) -> bool:
    return found.step_bias > max(STEP_SHARE * abs(found.mean), found.stderr)
