"""Values of the measures that one forward pass gives, from what it showed."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from geomfast.estimators.spectra import Spectrum, singular_values
from geomfast.measures.spec import OF_ANSWERS, MeasureSpec, Need
from geomfast.measures.subject import Samples, Seen, State, Subject, Value

#: Values and standard errors of a column, one for every matrix; None for errors of none.
_Column = tuple[Tensor, Tensor | None]


class Found(NamedTuple):
    """Values of one set of samples.

    Attributes:
        number: of the set.
        values: of it.
        seconds: that each of them took.
        backend: that computed them.
        n: samples.
    """

    number: int
    values: Sequence[Value]
    seconds: float
    backend: str
    n: int


class _Alike(NamedTuple):
    """Activations of one shape: sets and labels of layers, and (sets, members, layers, N, d)."""

    places: list[tuple[int, Sequence[str]]]
    x: Tensor


class Observed:
    """A forward pass, and the spectra of its activations once a measure has asked for them.

    Args:
        subject: of the pass.
        seen: what it showed of every set of samples.
        state: of earlier checkpoints.
    """

    def __init__(self, subject: Subject, seen: Sequence[Seen], state: State | None = None):
        self.seen, self._subject, self._state = seen, subject, state
        self._spectra: dict[tuple[int, bool], Spectrum] = {}

    def values(self, spec: MeasureSpec, settings: Any) -> Iterator[Found]:
        """A measure's values, set by set.

        Raises:
            ValueError: activations that are not finite; samples without answers where the measure
                needs them; a measure that gives another number of values.
        """
        if spec.need in OF_ANSWERS:
            return self._of_answers(spec, settings)
        if spec.need is Need.LAYERS:
            return self._of_layers(spec, settings)
        return self._of_matrices(spec, settings)

    @cached_property
    def _alike(self) -> list[_Alike]:
        """Layers of one shape, of every set, which are one call of a measure."""
        groups: dict[Any, list[tuple[int, Sequence[str], Tensor]]] = {}
        for number, seen in enumerate(self.seen):
            for labels, x in seen.states:
                groups.setdefault((x.shape, x.dtype, x.device), []).append((number, labels, x))
        alike = [
            _Alike(
                [(number, labels) for number, labels, _ in group],
                torch.stack([x for _, _, x in group]) if len(group) > 1 else group[0][2][None],
            )
            for group in groups.values()
        ]
        # Views from here on, so that activations are there once.
        states: list[list[tuple[Sequence[str], Tensor]]] = [[] for _ in self.seen]
        for places, x in alike:
            for (number, labels), own in zip(places, x, strict=True):
                states[number].append((labels, own))
        self.seen = [replace(one, states=own) for one, own in zip(self.seen, states, strict=True)]
        return alike

    def _of_matrices(self, spec: MeasureSpec, settings: Any) -> Iterator[Found]:
        """From every layer's activations alone, or from their spectra."""
        alike = self._alike
        begin = time.perf_counter()
        made = []
        for group, (_, x) in enumerate(alike):
            given = x if spec.need is Need.ACTIVATIONS else self._spectrum(group, settings)
            made.append((_columns(spec, spec.compute(given, settings), x), spec.ran_on(x)))
        each = sum(
            len(columns) * len(labels)
            for (columns, _), (places, _) in zip(made, alike, strict=True)
            for _, labels in places
        )
        seconds = (time.perf_counter() - begin) / each
        places = [
            (number, group, place)
            for group, (where, _) in enumerate(alike)
            for place, (number, _) in enumerate(where)
        ]
        for number, group, place in sorted(places):
            labels, x = alike[group].places[place][1], alike[group].x[place]
            columns, ran_on = made[group]
            values = []
            for layer, label in enumerate(labels):
                for name, (value, stderr) in columns.items():
                    errors = [math.nan] if stderr is None else stderr[place, :, layer].tolist()
                    values.append(Value(name, value[place, :, layer].tolist(), errors, label))
                    if any(map(math.isnan, values[-1].value)) and not x[:, layer].isfinite().all():
                        raise self._not_finite(number, label)
            yield Found(number, values, seconds, ran_on, x.shape[-2])

    def _spectrum(self, group: int, settings: Any) -> Spectrum:
        key = (group, bool(getattr(settings, "center", False)))
        if key not in self._spectra:
            x = self._alike[group].x
            values = singular_values(x, center=key[1])
            bad = ~values.isfinite().all(-1)
            if bad.any():  # of a backend that does not wait for the GPU
                place, _, layer = bad.nonzero()[0].tolist()
                number, labels = self._alike[group].places[place]
                raise self._not_finite(number, labels[layer])
            self._spectra[key] = Spectrum(values, *x.shape[-2:])
        return self._spectra[key]

    def _not_finite(self, number: int, label: str) -> ValueError:
        return ValueError(f"activations at {label} are not finite{_of(self._subject.sets[number])}")

    def _of_layers(self, spec: MeasureSpec, settings: Any) -> Iterator[Found]:
        """From all layers of one model together."""
        for number, seen in enumerate(self.seen):
            begin = time.perf_counter()
            labels = [label for some, _ in seen.states for label in some]
            # Of several models nothing is kept: a member may leave the group.
            state = self._state if self._subject.members == 1 else None
            earlier = state.earlier(spec.name, number) if state else None
            made = [
                list(
                    spec.compute(
                        labels, [own for _, x in seen.states for own in x[m]], settings, earlier
                    )
                )
                for m in range(self._subject.members)
            ]
            values = [
                Value(
                    name,
                    [one[i][2] for one in made],
                    [one[i][3] for one in made],
                    _label(layer, labels),
                )
                for i, (layer, name, *_) in enumerate(made[0])
            ]
            seconds = (time.perf_counter() - begin) / max(1, len(values))
            x = seen.states[0][1]
            yield Found(number, values, seconds, spec.ran_on(x), x.shape[-2])

    def _of_answers(self, spec: MeasureSpec, settings: Any) -> Iterator[Found]:
        """From activations at the place that predicts the answer, and the answers."""
        for number, seen in enumerate(self.seen):
            samples = self._subject.sets[number]
            if samples.answers is None or seen.right is None:
                raise without_answers(spec.name)
            begin = time.perf_counter()
            ((labels, x),) = seen.states
            if spec.need is Need.CLASSES:
                given = (samples.answers, seen.classifier)
            else:
                given = (samples.answers, samples.groups, seen.right)
            values = [
                Value(name, [value], [stderr], _label(layer, labels), *verdict)
                for layer, name, value, stderr, *verdict in spec.compute(x[0], *given, settings)
            ]
            seconds = (time.perf_counter() - begin) / len(values)
            yield Found(number, values, seconds, spec.ran_on(x), x.shape[-2])


def without_answers(name: str) -> ValueError:
    """The error of a measure that needs answers, of samples that have none."""
    return ValueError(
        f"{name} needs an answer of every sample, and activations at the place that predicts it"
    )


def _columns(spec: MeasureSpec, made: Any, x: Tensor) -> dict[str, _Column]:
    """What a measure gave, by column, on the CPU.

    Raises:
        ValueError: not one value for every matrix of x.
    """
    by_name = made if isinstance(made, Mapping) else {spec.name: made}
    found: dict[str, _Column] = {}
    for name, given in by_name.items():
        value, stderr = given if isinstance(given, tuple) else (given, None)
        for each in (value, stderr):
            if each is not None and each.shape != x.shape[:-2]:
                raise ValueError(
                    f"{spec.name} gave values of shape {tuple(each.shape)} for activations of "
                    f"shape {tuple(x.shape)}: one for every matrix is needed"
                )
        found[name] = (value.cpu(), None if stderr is None else stderr.cpu())
    return found


def _label(layer: int | None, labels: Sequence[str]) -> str:
    return "" if layer is None else labels[layer]


def _of(samples: Samples) -> str:
    task = samples.named.get("task")
    return f" ({task}, level {samples.named.get('level')})" if task else ""
