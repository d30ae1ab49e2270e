"""The measures there are: geomfast's own, and those of other installed packages.

Others are found by the entry point ``geomfast.measures``: a name, and the
:class:`~geomfast.measures.spec.MeasureSpec` (or several, in a tuple) that it leads to.
"""

from __future__ import annotations

import importlib
import pkgutil
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import metadata
from types import MappingProxyType

from geomfast.measures.spec import BEHAVIOUR, MeasureSpec, Need, owns

GROUP = "geomfast.measures"


class UnknownMeasure(ValueError):
    """A name that no measure has; the message lists those there are."""


@dataclass(frozen=True)
class Catalog:
    """The catalogue of measures.

    Attributes:
        specs: by name, in the order in which measures are listed and taken.
        failures: what could not be loaded, by the name of the entry point: why.
    """

    specs: Mapping[str, MeasureSpec]
    failures: Mapping[str, str]


@cache
def catalog() -> Catalog:
    """All measures, looked for once."""
    own = [spec for module in _own_modules() for spec in importlib.import_module(module).MEASURES]
    others, failures = _plugins({spec.name for spec in own})
    specs = sorted([*own, *others], key=lambda spec: (spec.order, spec.name))
    return Catalog(MappingProxyType({s.name: s for s in specs}), MappingProxyType(failures))


def measures() -> tuple[str, ...]:
    """Names of all measures, in the order in which they are listed and taken."""
    return tuple(catalog().specs)


def spec_of(name: str) -> MeasureSpec:
    """The measure of this name.

    Raises:
        UnknownMeasure: there is none.
    """
    try:
        return catalog().specs[name]
    except (KeyError, TypeError):
        there = ", ".join(measures())
        raise UnknownMeasure(f"unknown measure {name!r:.60}; there are: {there}") from None


#: Words for several measures, beside "all".
ONE_PASS = "one-pass"


def one_pass(names: Iterable[str]) -> tuple[str, ...]:
    """Those of the measures that one forward and one backward pass give."""
    wanted = set(names)
    return tuple(n for n, spec in catalog().specs.items() if n in wanted and not spec.expensive)


def measure_of(record: str) -> str | None:
    """The measure that values of this name are of: llc for llc_rhat; None for none."""
    return max((name for name in measures() if owns(name, record)), key=len, default=None)


def part_of(record: str) -> str:
    """Whose computation values of this name come from: a measure's, or the behaviour's."""
    return measure_of(record) or BEHAVIOUR


def needing(names: Iterable[str], *needs: Need) -> list[str]:
    """Those of the measures that have this need, in catalogue order."""
    wanted = set(names)
    return [name for name, spec in catalog().specs.items() if name in wanted and spec.need in needs]


def _own_modules() -> list[str]:
    import geomfast.measures.kinds as kinds

    return sorted(
        f"{kinds.__name__}.{found.name}" for found in pkgutil.iter_modules(kinds.__path__)
    )


def _plugins(taken: Iterable[str]) -> tuple[list[MeasureSpec], dict[str, str]]:
    """Measures of other packages; of two with one name neither, as nothing tells which is meant."""
    found: list[tuple[str, MeasureSpec]] = []
    failures: dict[str, str] = {}
    for point in sorted(metadata.entry_points(group=GROUP), key=lambda point: point.name):
        package = point.dist.name if point.dist else point.value
        said = f"{point.name} of {package}"
        try:
            loaded = point.load()
            specs = [loaded] if isinstance(loaded, MeasureSpec) else list(loaded)
            if wrong := [one for one in specs if not isinstance(one, MeasureSpec)]:
                raise TypeError(f"{point.value} holds no MeasureSpec but {wrong[0]!r:.60}")
            found += [(said, replace(spec, plugin=package)) for spec in specs]
        except Exception:
            failures[said] = traceback.format_exc()
    kept = []
    for said, spec in found:
        rivals = [other for other, one in found if _meet(one.name, spec.name) and other != said]
        # Its own name may begin one of geomfast's, but none of its records may.
        records = [spec.name, *(column.name for column in spec.columns)]
        rivals += [name for name in taken if any(owns(name, record) for record in records)]
        if rivals:
            failures[said] = (
                f"{spec.name} is also a measure, or its records those, of {', '.join(rivals)}; "
                "it is not loaded"
            )
        else:
            kept.append(spec)
    return kept, failures


def _meet(one: str, other: str) -> bool:
    """Whether the records of two measures would be ambiguous."""
    return owns(one, other) or owns(other, one)
