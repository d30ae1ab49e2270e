"""Numbers that chains are set up by; needs no torch."""

from __future__ import annotations

import math

#: A chain on a quadratic is stable where lr times the steepest curvature of its energy is less.
STABLE = 4.0


def usual_nbeta(samples: int) -> float:
    """n / log n, of two samples or more (Watanabe 2013)."""
    return samples / math.log(samples)


def max_energy_curvature(
    localization: float, nbeta: float = 0.0, curvature: float | None = None
) -> float:
    """Largest curvature of a chain's energy, as far as it is known.

    Args:
        localization: strength of the pull to the center.
        nbeta: inverse temperature times the number of samples.
        curvature: largest eigenvalue of the loss's Hessian; None where it is not known.
    """
    return nbeta * max(curvature or 0.0, 0.0) + localization
