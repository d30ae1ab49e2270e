"""How the measures of a model are taken, every setting checked before anything is measured."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from geomfast.measures.catalog import spec_of
from geomfast.measures.model.states import POSITIONS
from geomfast.measures.spec import Need

#: What a measure's settings are called here.
_NAMES: dict[str, dict[str, str]] = {
    "rankme": {"center": "center", "eps": "eps"},
    "fisher_rank": {"first_entries": "first_entries"},
    "gradient_covariance_rank": {"first_entries": "first_entries"},
    "hessian_top": {
        "k": "hessian_k",
        "tol": "hessian_tol",
        "max_iterations": "hessian_iterations",
        "seed": "seed",
    },
    "hessian_trace": {"probes": "hessian_probes", "seed": "seed"},
    "hessian_density": {
        "probes": "density_probes",
        "iterations": "density_iterations",
        "seed": "seed",
    },
    "llc": {
        "seed": "seed",
        **{
            name: f"llc_{name}"
            for name in ("lr", "localization", "chains", "draws", "burn_in", "batch_size", "nbeta")
        },
    },
}
_RANKME, _RANKS, _TOP, _TRACE, _DENSITY, _LLC = (
    spec_of(name).settings()
    for name in ("rankme", "fisher_rank", "hessian_top", "hessian_trace", "hessian_density", "llc")
)


@dataclass(frozen=True)
class Options:
    """How measures are taken.

    Attributes:
        samples: at most this many of the data, its first, 2 or more; None for all.
        batch_size: samples at once for activations and the Hessian, which it does not change; None
            for a batch as it comes. Halved, with a notice, where memory does not suffice.
        position: where :func:`geomfast.measures.model.states.activations` reads a sample's vector:
            "last", "mean" or "flat".
        center, eps: of :func:`geomfast.rankme`.
        params: names of the parameters whose gradients, Hessian and llc are measured, with shell
            wildcards; those that begin with "!" are left out: ``("!pooler.*",)`` for all but a
            pooler's. None for all that require gradients.
        first_entries: number of parameter entries of the truncated gradient ranks.
        check: see that no sample's gradient depends on the other samples.
        hessian_k, hessian_tol, hessian_iterations: of :func:`geomfast.hessian_top_eigenvalues`;
            the largest eigenvalue is recorded.
        hessian_probes: of :func:`geomfast.hessian_trace`.
        density_probes, density_iterations: of :func:`geomfast.hessian_density`.
        llc_lr, llc_localization, llc_chains, llc_draws, llc_burn_in, llc_batch_size, llc_nbeta: of
            :func:`geomfast.llc`. A minibatch has at most as many samples as there are; an nbeta of
            None is n / log n.
        seed: of every random number.

    Raises:
        TypeError, ValueError: a setting that cannot be right; the message names it, and says what
            is allowed.
    """

    samples: int | None = None
    batch_size: int | None = None
    position: str = "last"
    center: bool = _RANKME.center
    eps: float = _RANKME.eps
    params: str | Iterable[str] | None = None
    first_entries: int = _RANKS.first_entries
    check: bool = True
    hessian_k: int = _TOP.k
    hessian_tol: float = _TOP.tol
    hessian_iterations: int = _TOP.max_iterations
    hessian_probes: int = _TRACE.probes
    density_probes: int = _DENSITY.probes
    density_iterations: int = _DENSITY.iterations
    llc_lr: float = _LLC.lr
    llc_localization: float = _LLC.localization
    llc_chains: int = _LLC.chains
    llc_draws: int = _LLC.draws
    llc_burn_in: int = _LLC.burn_in
    llc_batch_size: int | None = _LLC.batch_size
    llc_nbeta: float | None = _LLC.nbeta
    seed: int = _LLC.seed

    def __post_init__(self) -> None:
        for name, rule in _RULES.items():
            object.__setattr__(self, name, rule(name, getattr(self, name)))
        if self.hessian_iterations < self.hessian_k:
            raise ValueError(
                f"hessian_iterations must be hessian_k = {self.hessian_k} or more, not "
                f"{self.hessian_iterations}"
            )

    def taken(self, measure: str) -> Any:
        """The settings that a measure is taken with, as its catalogue entry has them.

        Raises:
            UnknownMeasure: there is no such measure.
        """
        names = _NAMES.get(measure, {})
        return spec_of(measure).asked(**{own: getattr(self, name) for own, name in names.items()})

    def of(self, measure: str, taken: Any = None) -> dict[str, Any]:
        """The settings that shape a measure's value, as records keep them.

        Args:
            measure: its name.
            taken: its settings, as its catalogue entry has them; None for those of :meth:`taken`.

        Raises:
            UnknownMeasure: there is no such measure.
        """
        need = spec_of(measure).need
        own = asdict(self.taken(measure) if taken is None else taken)
        if need is Need.ACTIVATIONS:
            own["position"] = self.position
        elif need is Need.GRADIENTS:
            own = {"labels": "data", "first entries": own.pop("first_entries"), **own}
        elif need is Need.CHAINS and own.get("nbeta", "") is None:
            # By its rule, as sets of different sizes are measured in one and the same way.
            own["nbeta"] = "n / log n"
        if self.params is not None and need is not Need.ACTIVATIONS:
            own["params"] = list(self.params)
        return {"measure": measure, "samples": self.samples, **own}


def whole(name: str, value: Any, least: int | None = 0) -> int:
    """A whole number, also one of NumPy or torch.

    Args:
        name: of the setting, for the message.
        value: given for it.
        least: the smallest allowed; None for no bound.

    Raises:
        TypeError: it is none.
        ValueError: it is too small.
    """
    wanted = "a whole number" if least is None else f"a whole number, {least} or more"
    try:
        # True is an integer of Python's, but no number of anything.
        found = None if isinstance(value, bool) else operator.index(value)
    except (TypeError, RuntimeError):
        found = None
    if found is None:
        raise TypeError(f"{name} must be {wanted}, not {value!r}")
    if least is not None and found < least:
        raise ValueError(f"{name} must be {wanted}, not {found}")
    return found


def real(name: str, value: Any, *, zero: bool) -> float:
    """A finite number.

    Args:
        name: of the setting, for the message.
        value: given for it.
        zero: whether 0 is allowed; what is smaller never is.

    Raises:
        TypeError: it is no number.
        ValueError: it is not finite, or too small.
    """
    wanted = f"a finite number, {'0 or more' if zero else 'above 0'}"
    try:
        found = None if isinstance(value, (bool, str, bytes)) else float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        found = None
    if found is None:
        raise TypeError(f"{name} must be {wanted}, not {value!r}")
    if not math.isfinite(found) or found < 0 or (found == 0 and not zero):
        raise ValueError(f"{name} must be {wanted}, not {value!r}")
    return found


def _truth(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {value!r}")
    return value


def _position(name: str, value: Any) -> str:
    if value not in POSITIONS:
        raise ValueError(f"{name} must be one of {', '.join(POSITIONS)}, not {value!r}")
    return value


def _params(name: str, value: Any) -> tuple[str, ...] | None:
    if value is None:
        return None
    iterable = isinstance(value, Iterable) and not isinstance(value, (str, bytes, dict))
    patterns: tuple[Any, ...] = tuple(value) if iterable else (value,)
    if not patterns or not all(isinstance(one, str) and one.strip("!") for one in patterns):
        raise TypeError(
            f'{name} must be names of parameters, with shell wildcards, and "!" before those to '
            f"leave out, or None for all, not {value!r}"
        )
    return patterns


def _or_none(rule: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    return lambda name, value: None if value is None else rule(name, value)


def _from(least: int) -> Callable[[str, Any], int]:
    return lambda name, value: whole(name, value, least)


def _positive(name: str, value: Any) -> float:
    return real(name, value, zero=False)


def _not_negative(name: str, value: Any) -> float:
    return real(name, value, zero=True)


def _seed(name: str, value: Any) -> int:
    if (found := whole(name, value)) >= 1 << 64:
        raise ValueError(f"{name} must be a whole number of 64 bits, not {found}")
    return found


#: What every setting is checked by, and brought into its own type.
_RULES: dict[str, Callable[[str, Any], Any]] = {
    "samples": _or_none(_from(2)),
    "batch_size": _or_none(_from(1)),
    "position": _position,
    "center": _truth,
    "eps": _not_negative,
    "params": _params,
    "first_entries": _from(1),
    "check": _truth,
    "hessian_k": _from(1),
    "hessian_tol": _positive,
    "hessian_iterations": _from(1),
    "hessian_probes": _from(6),
    "density_probes": _from(1),
    "density_iterations": _from(2),
    "llc_lr": _positive,
    "llc_localization": _not_negative,
    "llc_chains": _from(1),
    "llc_draws": _from(1),
    "llc_burn_in": _from(0),
    "llc_batch_size": _or_none(_from(1)),
    "llc_nbeta": _or_none(_positive),
    "seed": _seed,
}
