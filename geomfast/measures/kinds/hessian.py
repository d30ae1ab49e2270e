"""The Hessian of the mean loss: its largest eigenvalue, its trace, quantiles of all eigenvalues."""

from __future__ import annotations

import math
import warnings
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from geomfast.measures.checks import at_least, check, positive, seed
from geomfast.measures.spec import GREEN, Column, MeasureSpec, Need

if TYPE_CHECKING:
    from torch import Tensor, nn

    from geomfast.estimators.curvature.lanczos import Eigenpairs

#: Shares of the eigenvalues below which those recorded of a density lie.
QUANTILES = (0.01, 0.1, 0.5, 0.9, 0.99)
#: Name, value, standard error (NaN where none is defined) of every value; and eigenvectors (k, P).
Found = tuple[list[tuple[Any, ...]], "Tensor | None"]


@dataclass(frozen=True)
class HessianTop:
    """Settings of :func:`geomfast.hessian_top_eigenvalues`; the largest eigenvalue is recorded."""

    k: int = 1
    tol: float = 1e-3
    max_iterations: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        check(self, k=at_least(1), tol=positive, max_iterations=at_least(1), seed=seed)
        if self.max_iterations < self.k:
            raise ValueError(
                f"max_iterations must be k = {self.k} or more, not {self.max_iterations}"
            )


@dataclass(frozen=True)
class HessianTrace:
    """Settings of :func:`geomfast.hessian_trace`."""

    probes: int = 30
    seed: int = 0

    def __post_init__(self) -> None:
        check(self, probes=at_least(6), seed=seed)


@dataclass(frozen=True)
class HessianDensity:
    """Settings of :func:`geomfast.hessian_density`."""

    probes: int = 4
    iterations: int = 40
    seed: int = 0

    def __post_init__(self) -> None:
        check(self, probes=at_least(1), iterations=at_least(2), seed=seed)


@dataclass(frozen=True)
class HessianNegative(HessianDensity):
    """Settings of :func:`geomfast.hessian_density`."""


def top(
    model: nn.Module, loss_fn: Any, data: Any, settings: HessianTop, start: Tensor | None = None
) -> Found:
    """The largest eigenvalue; its standard error is its residual: an eigenvalue lies within it.

    One that has not converged is recorded with the residual that it has.
    """
    from geomfast.estimators.hessian import NotConverged, hessian_top_eigenvalues

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotConverged)  # its residual is recorded
        found = hessian_top_eigenvalues(model, loss_fn, data, start=start, **asdict(settings))
    value, residual = found.values[0].item(), found.residuals[0].item()
    iterations = ("hessian_top_iterations", float(found.iterations), math.nan)
    return [("hessian_top", value, residual, reliability(found)), iterations], found.vectors


def reliability(found: Eigenpairs) -> str:
    """Verdict on eigenpairs."""
    from geomfast.estimators.hessian import LARGEST_ROUNDING

    if found.asymmetry > LARGEST_ROUNDING:
        return f"rounding: products are asymmetric by {found.asymmetry:.0%}; use float64"
    return "converged" if found.converged else f"not converged in {found.iterations} iterations"


def trace(
    model: nn.Module, loss_fn: Any, data: Any, settings: HessianTrace, start: Tensor | None = None
) -> Found:
    """The trace, by Hutchinson's estimator."""
    from geomfast.estimators.hessian import hessian_trace

    found = hessian_trace(model, loss_fn, data, **asdict(settings))
    return [("hessian_trace", found.mean, found.stderr)], None


def _within(value: float, stderr: float, n: int) -> str:
    if stderr <= 0.1 * abs(value):
        return "ok"
    return f"± {stderr / abs(value):.0%}: more probes" if value else "more probes"


def density(
    model: nn.Module, loss_fn: Any, data: Any, settings: HessianDensity, start: Tensor | None = None
) -> Found:
    """Eigenvalues below which shares of all of them lie."""
    import torch

    from geomfast.estimators.hessian import hessian_density

    found = hessian_density(model, loss_fn, data, **asdict(settings))
    below = torch.cumulative_trapezoid(found.density, found.grid)
    values = []
    for share in QUANTILES:
        at = int(torch.searchsorted(below, share).clamp_max(len(below) - 1))
        values.append((_quantile(share), found.grid[at + 1].item(), math.nan))
    return values, None


def negative(
    model: nn.Module,
    loss_fn: Any,
    data: Any,
    settings: HessianNegative,
    start: Tensor | None = None,
) -> Found:
    """The share of eigenvalues below zero.

    The sign of what lies within the density's smoothing width of zero cannot be told: it is not
    counted, and its share stands beside.
    """
    from geomfast.estimators.curvature.prepared import checked_products
    from geomfast.estimators.hessian import hessian_density

    own = asdict(settings)
    with checked_products(model, loss_fn, data, None, "hessian") as products:
        found = products.found.get(("density", *own.values()))
        if found is None:
            found = hessian_density(model, loss_fn, data, **own)
    values = []
    for name, within in (
        ("hessian_negative", found.nodes < -found.width),
        ("hessian_negative_near_zero", found.nodes.abs() <= found.width),
    ):
        each = (found.weights * within).sum(1)
        stderr = each.std().item() / math.sqrt(len(each)) if len(each) > 1 else math.nan
        values.append((name, each.mean().item(), stderr))
    return values, None


def _quantile(share: float) -> str:
    return f"hessian_density_q{round(100 * share):02d}"


_SHARED: dict[str, Any] = {"unit": "loss", "need": Need.CURVATURE, "expensive": True}
_OF_SHARES: dict[str, Any] = {**_SHARED, "unit": "share"}
MEASURES = (
    MeasureSpec(
        name="hessian_top",
        summary="largest eigenvalue of the Hessian, with its residual and products",
        settings=HessianTop,
        columns=(Column("hessian_top"), Column("hessian_top_iterations", 0.0)),
        compute=top,
        meaning="the steepest direction of the loss has curvature {value:.3g}",
        label="Hessian, top eigenvalue",
        colour=GREEN,
        logarithmic=True,
        order=50,
        **_SHARED,
    ),
    MeasureSpec(
        name="hessian_trace",
        summary="trace of the Hessian, with its standard error",
        settings=HessianTrace,
        columns=(Column("hessian_trace"),),
        compute=trace,
        meaning="the curvatures of all directions add up to {value:.3g}",
        judged=_within,
        label="Hessian, trace",
        colour=GREEN,
        hatch="////",
        logarithmic=True,
        products=lambda settings: settings.probes,
        order=60,
        **_SHARED,
    ),
    MeasureSpec(
        name="hessian_density",
        summary="quantiles of the Hessian's eigenvalues",
        settings=HessianDensity,
        columns=tuple(Column(_quantile(share)) for share in QUANTILES),
        compute=density,
        meaning="this share of the curvatures lies below {value:.3g}",
        label="Hessian, density",
        colour=GREEN,
        hatch="....",
        products=lambda settings: settings.probes * settings.iterations,
        order=70,
        **_SHARED,
    ),
    MeasureSpec(
        name="hessian_negative",
        core=False,
        summary="share of the Hessian's eigenvalues that are clearly below zero",
        settings=HessianNegative,
        columns=(
            Column("hessian_negative", 0.0, 1.0),
            Column("hessian_negative_near_zero", 0.0, 1.0),
        ),
        compute=negative,
        meaning="the loss clearly curves downwards in a share of {value:.3g} of the directions",
        label="Hessian, share of negative eigenvalues",
        colour=GREEN,
        products=lambda settings: settings.probes * settings.iterations,
        shares="hessian_density",
        order=72,
        **_OF_SHARES,
    ),
)
