"""All measures of a subject, whatever it is: one forward pass, one pass of attribution, many rows.

Sweeps, populations, series of checkpoints and trackers measure through here.  A subject says what
its samples are and what a forward pass over them shows; the catalogue says what each measure wants
of that; a policy says what happens where one fails or memory does not suffice.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

from torch import Tensor

from geomfast.estimators.batches import Batches, batches_of, count, one_batch, parts
from geomfast.estimators.checks import LossFunction
from geomfast.estimators.curvature.lanczos import one_start
from geomfast.estimators.curvature.prepared import one_preparation
from geomfast.estimators.gradients import GradientRanks, gradient_ranks
from geomfast.estimators.stopping import check_stop
from geomfast.measures.activity import announce
from geomfast.measures.catalog import spec_of
from geomfast.measures.memory import Notice, halving, logger, out_of_memory
from geomfast.measures.observed import Observed, without_answers
from geomfast.measures.spec import (
    BEHAVIOUR,
    FAILED,
    OF_ACTIVATIONS,
    OF_ANSWERS,
    MeasureSpec,
    Need,
)
from geomfast.measures.subject import Policy, Samples, State, Subject, Value

#: How :func:`geomfast.llc` begins to say that a model's chains are no one program.
_OF_CHAINS = "chains run one after the other"
#: Notice that chains are no longer one program because memory is short.
_ONE_BY_ONE = "out of memory: chains of the llc continue one after the other"


def measure(
    subject: Subject,
    wanted: Mapping[str, Any],
    policy: Policy | None = None,
    state: State | None = None,
    *,
    behaviour: bool = False,
) -> Iterator[dict[str, Any]]:
    """Measure a subject.

    Args:
        subject: what is measured.
        wanted: settings by the name of a measure; taken in the catalogue's order.
        policy: None for the defaults.
        state: of earlier checkpoints.
        behaviour: also what the model does with the samples.

    Yields:
        Rows with what names the set of samples, and member, of (the measure), measure (the name of
        the value), layer, value, stderr, backend, seconds and verdict. The forward pass that
        several measures share counts as behaviour's, so that another measure's seconds are what it
        adds; without behaviour they share it in equal parts.

    Raises:
        UnknownMeasure: a name that the catalogue does not have.
        ValueError: the subject has not what a measure needs, and whatever the measures refuse.
    """
    return _Taking(subject, policy or Policy(), state).all(wanted, behaviour)


@dataclass
class _Taking:
    subject: Subject
    policy: Policy
    state: State | None
    #: The forward pass: seconds, and what it showed.
    _seen: tuple[float, Observed] | None = field(default=None, init=False)

    def all(self, wanted: Mapping[str, Any], behaviour: bool) -> Iterator[dict[str, Any]]:
        specs = sorted((spec_of(name) for name in wanted), key=lambda spec: spec.order)
        by_need = {need: [spec for spec in specs if spec.need is need] for need in Need}
        first: list[dict[str, Any]] = []
        if behaviour:
            announce(BEHAVIOUR)
            first += self._guarded([BEHAVIOUR], self._behaviour)
        for spec in [s for s in specs if s.need in (*OF_ACTIVATIONS, *OF_ANSWERS)]:
            announce(spec.name)
            made = self._guarded([spec.name], lambda s=spec: self._shown(s, wanted[s.name]))
            first += made
        self._share(first, behaviour)
        self._seen = None
        yield from first
        if ranks := by_need[Need.GRADIENTS]:
            names = [spec.name for spec in ranks]
            announce(", ".join(names))
            yield from self._guarded(names, lambda: self._gradients(ranks, wanted))
        yield from self._curvatures(by_need[Need.CURVATURE], wanted)
        for spec in by_need[Need.CHAINS]:
            announce(spec.name)
            take = lambda s=spec: self._chains(s, wanted[s.name])  # noqa: E731
            yield from self._guarded([spec.name], take)

    def _guarded(
        self, names: Sequence[str], take: Callable[[], Iterable[dict[str, Any]]]
    ) -> Iterator[dict[str, Any]]:
        if self.policy.failed is None:
            yield from take()
            return
        try:
            rows = list(take())
        except Exception as error:
            rows = []
            for name in names:
                self.policy.failed(name, error)
                said = f"failed: {type(error).__name__}: {error}"
                value = Value(name, [math.nan] * self.subject.members, [math.nan], "", said)
                for samples in self.subject.sets:
                    rows += self._rows(samples, name, [value], 0.0, FAILED, n=0)
        yield from rows

    def _observed(self) -> Observed:
        if self._seen is None:
            begin = time.perf_counter()
            seen = self.subject.observe()
            self._seen = (time.perf_counter() - begin, Observed(self.subject, seen, self.state))
        return self._seen[1]

    def _share(self, rows: list[dict[str, Any]], behaviour: bool) -> None:
        """Counts the forward pass among the rows that it was made for."""
        sharing = [row for row in rows if row["of"] == BEHAVIOUR] if behaviour else rows
        if self._seen is not None and sharing:
            for row in sharing:
                row["seconds"] += self._seen[0] / len(sharing)

    def _behaviour(self) -> Iterator[dict[str, Any]]:
        for samples, seen in zip(self.subject.sets, self._observed().seen, strict=True):
            yield from self._rows(samples, BEHAVIOUR, seen.behaviour, 0.0, "torch")

    def _shown(self, spec: MeasureSpec, settings: Any) -> Iterator[dict[str, Any]]:
        for number, values, seconds, ran_on, n in self._observed().values(spec, settings):
            samples = self.subject.sets[number]
            # A subject may show others than the samples that its loss is of.
            yield from self._rows(samples, spec.name, values, seconds, ran_on, n=n)

    def _gradients(
        self, specs: Sequence[MeasureSpec], wanted: Mapping[str, Any]
    ) -> Iterator[dict[str, Any]]:
        """Ranks that count the same first entries share one backward pass."""
        for samples in self.subject.sets:
            check_stop()
            if unlabelled := [s.name for s in specs if s.labelled and samples.answers is None]:
                raise without_answers(unlabelled[0])
            begin = time.perf_counter()
            pair = cache(partial(self._ranks, *_loss(samples, specs[0].name), samples.answers))
            entries = [getattr(wanted[spec.name], "first_entries", None) for spec in specs]
            some = next((count for count in entries if count is not None), 1)
            made = {
                spec.name: _values(
                    spec.compute(*pair(some if own is None else own), wanted[spec.name])
                )
                for spec, own in zip(specs, entries, strict=True)
            }
            took = (time.perf_counter() - begin) / sum(map(len, made.values()))
            like = next(self.subject.model.parameters())
            for spec in specs:
                yield from self._rows(samples, spec.name, made[spec.name], took, spec.ran_on(like))

    def _ranks(
        self, loss_fn: LossFunction, data: Any, answers: Tensor | None, first: int
    ) -> tuple[GradientRanks, GradientRanks]:
        batch = one_batch(data)
        exact, some = halving(
            lambda at_once: gradient_ranks(
                self.subject.model,
                loss_fn,
                batch,
                first=first,
                check=self.policy.check,
                at_once=at_once,
            ),
            count(batch),
            "the Gram matrix of gradients",
            least=2,
            notice=self.policy.notice,
        )
        return replace(exact, answers=answers), some

    def _curvatures(
        self, specs: Sequence[MeasureSpec], wanted: Mapping[str, Any]
    ) -> Iterator[dict[str, Any]]:
        """All of one set of samples before the next, as they share what products start from."""
        made: dict[str, list[dict[str, Any]]] = {spec.name: [] for spec in specs}
        failed: set[str] = set()
        with one_start(), one_preparation():
            for number, samples in enumerate(self.subject.sets):
                # The same batches for every measure: by them what was prepared is known again.
                cut = cache(lambda size, batches=samples.data: _cut(batches_of(batches), size))
                for spec in specs:
                    if spec.name in failed:
                        continue
                    announce(spec.name)
                    take = partial(self._curvature, spec, wanted[spec.name], number, samples, cut)
                    rows = list(self._guarded([spec.name], take))
                    if rows[0]["backend"] == FAILED:  # of all sets
                        failed.add(spec.name)
                        made[spec.name].clear()
                    made[spec.name] += rows
        for rows in made.values():
            yield from rows

    def _curvature(
        self,
        spec: MeasureSpec,
        settings: Any,
        number: int,
        samples: Samples,
        cut: Callable[[int], Batches],
    ) -> Iterator[dict[str, Any]]:
        check_stop()
        begin = time.perf_counter()
        # Only a search for eigenvectors is quicker for those of an earlier checkpoint.
        own = {"of": spec.vectors} if spec.vectors else {}
        start = self.state.start(number, **own) if self.state and spec.products is None else None
        if getattr(settings, "lr", math.nan) is None:
            settings = replace(settings, lr=self.subject.learning_rate)
        values, vectors = self._products(spec, settings, samples, cut, start)
        if vectors is not None and self.state:
            self.state.keep(number, vectors, **own)
        seconds = (time.perf_counter() - begin) / len(values)
        ran_on = spec.ran_on(next(self.subject.model.parameters()))
        yield from self._rows(samples, spec.name, values, seconds, ran_on)

    def _products(
        self,
        spec: MeasureSpec,
        settings: Any,
        samples: Samples,
        cut: Callable[[int], Batches],
        start: Tensor | None,
    ) -> tuple[list[Value], Tensor | None]:
        loss_fn, data = _loss(samples, spec.name)
        largest = max(count(batch, least=1) for batch in batches_of(data))
        found, vectors = halving(
            lambda size: spec.compute(self.subject.model, loss_fn, cut(size), settings, start),
            min(self.policy.batch_size or largest, largest),
            f"{spec.name} of the Hessian",
            notice=self.policy.notice,
        )
        return _values(found), vectors

    def _chains(self, spec: MeasureSpec, settings: Any) -> Iterator[dict[str, Any]]:
        """When memory is short, chains run one after the other, then over parts of a minibatch."""
        for samples in self.subject.sampled:
            check_stop()
            begin = time.perf_counter()
            loss_fn, data = _loss(samples, spec.name)
            batches = batches_of(data)
            sizes = [count(batch, least=1) for batch in batches]
            own, together = settings, max(sizes)
            if settings.batch_size is not None:
                together = min(settings.batch_size, sum(sizes))
                own = replace(settings, batch_size=together)
            values = self._sampled(spec, own, loss_fn, batches, together)
            seconds = (time.perf_counter() - begin) / len(values)
            ran_on = spec.ran_on(self.subject.model)
            yield from self._rows(samples, spec.name, values, seconds, ran_on)

    def _sampled(
        self, spec: MeasureSpec, settings: Any, loss_fn: LossFunction, batches: Batches, size: int
    ) -> list[Value]:
        how: dict[str, Any] = {}

        def attempt(at_once: int) -> list[Value]:
            how["at_once"] = at_once
            arguments = (self.subject.model, loss_fn, batches, settings)
            try:
                with _told(self.policy.notice):
                    return _values(spec.compute(*arguments, **how))
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error) or settings.chains == 1 or "stacked" in how:
                    raise
            self.policy.notice(_ONE_BY_ONE)
            how["stacked"] = False
            return _values(spec.compute(*arguments, **how))

        return halving(attempt, size, f"sampling the {spec.name}", notice=self.policy.notice)

    def _rows(
        self,
        samples: Samples,
        of: str,
        values: Iterable[Value],
        seconds: float,
        backend: str,
        **more: Any,
    ) -> Iterator[dict[str, Any]]:
        members = self.subject.members
        for one in values:
            errors = one.stderr if len(one.stderr) == members else [*one.stderr] * members
            for member, (value, stderr) in enumerate(zip(one.value, errors, strict=True)):
                yield {
                    **samples.named,
                    **more,
                    "member": member,
                    "of": of,
                    "measure": one.name,
                    "layer": one.layer,
                    "value": value,
                    "stderr": stderr,
                    "backend": backend,
                    "seconds": seconds / members,
                    "verdict": one.verdict,
                }


@contextmanager
def _told(notice: Notice) -> Iterator[None]:
    """Log messages about how chains run become notices, which a tracker gives once."""
    said: list[str] = []

    def kept(record: logging.LogRecord) -> bool:
        if not record.getMessage().startswith(_OF_CHAINS):
            return True
        said.append(record.getMessage())
        return False

    logger.addFilter(kept)
    try:
        yield
    finally:
        logger.removeFilter(kept)
        for line in said:
            notice(line)


def _values(found: Iterable[tuple[Any, ...]]) -> list[Value]:
    return [
        Value(name, [value], [stderr], verdict=verdict[0] if verdict else "")
        for name, value, stderr, *verdict in found
    ]


def _loss(samples: Samples, name: str) -> tuple[LossFunction, Any]:
    if samples.loss_fn is None or samples.data is None:
        raise ValueError(f"{name} needs a loss_fn and data")
    return samples.loss_fn, samples.data


def _cut(batches: Batches, size: int) -> Batches:
    """The batches in parts of at most so many samples."""
    return Batches(part for batch in batches for _, part in parts(batch, size))
