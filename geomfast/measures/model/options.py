"""Settings for measuring a model, all checked before anything is measured."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from geomfast.measures.catalog import measures, spec_of
from geomfast.measures.checks import at_least, check, or_none, truth
from geomfast.measures.model.states import POSITIONS
from geomfast.measures.spec import OF_ACTIVATIONS, Need, of_gradients

#: What some measures' settings were called by :func:`Options`; those of others had the same names.
_OLD = {
    "center": ("rankme", "center"),
    "eps": ("rankme", "eps"),
    "hessian_k": ("hessian_top", "k"),
    "hessian_tol": ("hessian_top", "tol"),
    "hessian_iterations": ("hessian_top", "max_iterations"),
    "hessian_probes": ("hessian_trace", "probes"),
    "density_probes": ("hessian_density", "probes"),
    "density_iterations": ("hessian_density", "iterations"),
}
_RANKS = ("fisher_rank", "gradient_covariance_rank")
_SEEDED = ("hessian_top", "hessian_trace", "hessian_density", "llc")


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


@dataclass(frozen=True)
class ModelSettings:
    """Settings for measuring a model.

    Attributes:
        samples: at most this many of the data, its first, 2 or more; None for all.
        batch_size: samples at once for activations and the Hessian, which it does not change; None
            for a batch as it comes. Halved, with a notice, where memory does not suffice.
        params: names of the parameters whose gradients, Hessian and llc are measured, with shell
            wildcards; those that begin with "!" are left out: ``("!pooler.*",)`` for all but a
            pooler's. None for all that require gradients.
        position: where :func:`geomfast.measures.model.states.activations` reads a sample's vector:
            "last", "mean" or "flat".
        check: see that no sample's gradient depends on the other samples.
        own: settings by measure, as its catalogue entry has them; others have their defaults.

    Raises:
        TypeError, ValueError: a setting that cannot be right; the message names it, and says what
            is allowed.
    """

    samples: int | None = None
    batch_size: int | None = None
    params: str | Iterable[str] | None = None
    position: str = "last"
    check: bool = True
    own: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        check(
            self,
            samples=or_none(at_least(2)),
            batch_size=or_none(at_least(1)),
            params=_params,
            position=_position,
            check=truth,
        )

    @classmethod
    def asked(cls, settings: Mapping[str, Any], **common: Any) -> ModelSettings:
        """Settings from the arguments of a call.

        Args:
            settings: of measures by name, a mapping each: ``{"llc": {"lr": 1e-5}}``.
            common: fields of this class.

        Raises:
            TypeError, ValueError: an unknown measure or setting, with those there are; one that
                cannot be right.
        """
        own = {}
        for name, given in settings.items():
            spec = spec_of(name)
            if not isinstance(given, Mapping):
                raise TypeError(
                    f"{name} must be a mapping of its settings, {name}={spec.defaults} by default, "
                    f"not {given!r:.60}"
                )
            own[name] = spec.asked(**given)
        return cls(**common, own=own)

    @classmethod
    def named(cls, **flat: Any) -> ModelSettings:
        """Settings from the options of a command: ``llc_lr`` for lr of llc.

        Raises:
            TypeError, ValueError: as :meth:`asked`.
        """
        settings: dict[str, dict[str, Any]] = {}
        common = {name: value for name, value in flat.items() if name in cls.__dataclass_fields__}
        for name, value in flat.items():
            owner = next((one for one in measures() if name.startswith(f"{one}_")), None)
            if name not in common:
                if owner is None:
                    raise TypeError(f"no measure has a setting {name!r}")
                settings.setdefault(owner, {})[name.removeprefix(f"{owner}_")] = value
        return cls.asked(settings, **common)

    def settings_of(self, measure: str) -> Any:
        """The settings that a measure is taken with, as its catalogue entry has them.

        Raises:
            UnknownMeasure: there is no such measure.
        """
        return self.own[measure] if measure in self.own else spec_of(measure).settings()

    def of(self, measure: str) -> dict[str, Any]:
        """The settings that shape a measure's value, as records keep them.

        Raises:
            UnknownMeasure: there is no such measure.
        """
        need = spec_of(measure).need
        own = asdict(self.settings_of(measure))
        if need in OF_ACTIVATIONS:
            own["position"] = self.position
        elif need is Need.GRADIENTS:
            own = of_gradients(own)
        elif need is Need.CHAINS and own.get("nbeta", "") is None:
            # By its rule, as sets of different sizes are measured in one and the same way.
            own["nbeta"] = "n / log n"
        if self.params is not None and need not in OF_ACTIVATIONS:
            own["params"] = list(self.params)
        return {"measure": measure, "samples": self.samples, **own}


def Options(**changes: Any) -> ModelSettings:
    """Settings under their names of before 0.1; goes with the next version.

    Raises:
        TypeError, ValueError: as :class:`ModelSettings`.
    """
    warnings.warn(
        'Options(...) is deprecated: give its settings to the call itself, as llc={"lr": 1e-5} and '
        "samples=64",
        DeprecationWarning,
        stacklevel=2,
    )
    settings: dict[str, dict[str, Any]] = {}
    rest = dict(changes)
    for name, value in changes.items():
        places = [_OLD[name]] if name in _OLD else []
        places += [(one, name) for one in _RANKS if name == "first_entries"]
        places += [(one, name) for one in _SEEDED if name == "seed"]
        places += [("llc", name.removeprefix("llc_"))] if name.startswith("llc_") else []
        for measure, setting in places:
            settings.setdefault(measure, {})[setting] = value
            rest.pop(name, None)
    return ModelSettings.asked(settings, **rest)
