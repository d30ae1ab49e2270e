"""How long chains are run for a standard error that is asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from geomfast.estimators.arguments import check_number, check_whole
from geomfast.estimators.sampling.diagnostics import mixing
from geomfast.estimators.sampling.rules import LARGEST_RHAT
from geomfast.estimators.sampling.rules import LEAST_ESS as USABLE_ESS

#: Effective draws before the error that they give is believed: fewer make it too small too often,
#: and chains that stop at the first small one would stop too early.
LEAST_ESS = 100.0
#: What chains run to at most where nothing else is said.
MOST_DRAWS = 20_000
# Draws grow by these factors between two looks. Few looks, at errors that are known to a tenth or
# better, are what keeps intervals as wide as they say they are.
_LEAST_GROWTH, _MOST_GROWTH = 1.25, 3.0


@dataclass(frozen=True)
class Goal:
    """A standard error that chains are run for, and what ends them without it.

    A fixed-width rule (Glynn and Whitt 1992, doi:10.1214/aoap/1177005777): at a look, chains stop
    where the error is small enough and comes of `LEAST_ESS` effective draws or more, of chains that
    agree as far as a coefficient is used at all (`rules.LARGEST_RHAT`); otherwise
    they run on to the draws at which, by that error, it would be.

    Attributes:
        stderr: in units of the coefficient; infinity for any.
        relative: as a share of the mean; infinity for any.
        max_draws: of each chain.
        max_seconds: of sampling.
        ess: effective draws that the error must come of.
    """

    stderr: float
    relative: float
    max_draws: int
    max_seconds: float
    ess: float = LEAST_ESS

    def further(self, energies: Tensor, steps: int, seconds: float) -> tuple[int, str]:
        """How many more steps are worth taking, 0 for none, and then why, in words.

        Args:
            energies: (C, D) float64, nbeta L of the kept draws of chains that have not diverged.
            steps: of each chain so far, those before the first draw too.
            seconds: that they took.
        """
        if not energies.numel():
            return 0, "; no chain is left to draw with"
        draws = energies.shape[1]
        mixed = mixing(energies)
        target = min(self.stderr, self.relative * abs(mixed.mean))
        if mixed.stderr <= target and mixed.ess >= self.ess and mixed.rhat <= LARGEST_RHAT:
            met = f"; the error asked for, {target:.2g}, was met after {draws} draws a chain"
            return 0, met if target < math.inf else ""
        if target == math.inf and mixed.mean < -2.0 * mixed.stderr:
            return 0, ""  # of a model that is still training more draws tell nothing
        unmet = f"at an error of {mixed.stderr:.2g}, of {target:.2g} asked for"
        if draws >= self.max_draws:
            if target == math.inf:
                return 0, ""
            return 0, f"; max_draws = {self.max_draws} ended it {unmet}"
        growth = _MOST_GROWTH
        if target > 0 and not math.isnan(mixed.stderr):  # as it is of too few draws to tell
            needed = max((mixed.stderr / target) ** 2, self.ess / max(mixed.ess, 1.0))
            growth = min(max(needed, _LEAST_GROWTH), _MOST_GROWTH)
        more = min(math.ceil(draws * growth), self.max_draws) - draws
        fitting = math.inf
        if self.max_seconds < math.inf:
            fitting = int((self.max_seconds - seconds) * steps / max(seconds, 1e-9))
        if fitting < min(more, 10):
            return 0, f"; max_seconds = {self.max_seconds:g} ended it {unmet}"
        return int(min(more, fitting)), ""


#: Arguments of `geomfast.llc` that ask for one, in the order of `goal_of`.
GOAL = ("stderr", "relative_stderr", "max_draws", "max_seconds")


def goal_of(
    draws: int,
    stderr: float | None,
    relative_stderr: float | None,
    max_draws: int | None,
    max_seconds: float | None,
) -> Goal | None:
    """What the arguments of `geomfast.llc` ask for; None for just so many draws.

    Raises:
        TypeError, ValueError: one is not what it must be, or bounds what nothing asks for.
    """
    asked = {"stderr": stderr, "relative_stderr": relative_stderr}
    for name, value in {**asked, "max_seconds": max_seconds}.items():
        if value is not None:
            check_number(**{name: value})
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be positive, not {value}")
    if max_draws is not None:
        check_whole(1, max_draws=max_draws)
        if max_draws < draws:
            raise ValueError(f"max_draws must be draws = {draws} or more, not {max_draws}")
    if stderr is None and relative_stderr is None:
        if max_seconds is not None:
            raise ValueError(f"max_seconds = {max_seconds:g} goes with stderr or relative_stderr")
        if max_draws is None or max_draws == draws:
            return None
        return Goal(math.inf, math.inf, max_draws, math.inf, USABLE_ESS)
    return Goal(
        math.inf if stderr is None else stderr,
        math.inf if relative_stderr is None else relative_stderr,
        max(MOST_DRAWS, draws) if max_draws is None else max_draws,
        math.inf if max_seconds is None else max_seconds,
    )
