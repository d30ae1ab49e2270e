"""Live measures inside any training loop, on a copy of the weights."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import nn

from geomfast.estimators.checks import LossFunction
from geomfast.measures.model.measuring import named_measures
from geomfast.measures.model.options import ModelSettings
from geomfast.tracker import arguments, messages
from geomfast.tracker.budget import Budget, Group
from geomfast.tracker.cadence import Cadence
from geomfast.tracker.copies import EvaluationCopy, preserve_rng_state, unwrapped
from geomfast.tracker.dashboards import dashboards, tags
from geomfast.tracker.folder import RunFolder
from geomfast.tracker.notices import Notices
from geomfast.tracker.resume import ResumeCheck
from geomfast.tracker.samples import ONLY, described, sample_sets
from geomfast.tracker.schedule import check_every, due
from geomfast.tracker.values import Evaluator, Sampled, StatesOf, rows_of, values_of_run

logger = logging.getLogger("geomfast")


class Tracker:
    """Measures a model while it is trained, and writes the records that `geomfast report` reads.

    Call :meth:`step` after every optimiser step, with ``step(0)`` before the first one to have the
    untrained network too, and :meth:`close` after the last. Where a measurement is due, a copy of
    the model, made once, takes over the weights and is measured in evaluation mode. The
    model itself, its gradients, mode and hooks, all random numbers and the default type stay as
    they are, so that training comes out the same to the bit::

        def loss_fn(model, batch):  # one loss per sample, not their mean
            x, y = batch
            return torch.nn.functional.cross_entropy(model(x), y, reduction="none")

        tracker = gf.Tracker(model, loss_fn, (x, y), measures=("rankme", "fisher_rank"), out="out")

    Measuring happens between two steps and not beside them. On a CPU both want all of its cores,
    and measures switch kernels for the whole process while they run; on a CUDA device the copy has
    a stream of its own, which runs beside what training has queued.

    In distributed training only rank 0 measures, on the weights that all ranks share; the others
    wait for it where they next meet. Weights that are spread over ranks are refused.

    A failure in :meth:`step` never ends the training: it is logged once, written to OUT/failures,
    and recorded as NaN.

    Args:
        model: any module; compiled ones and those in DistributedDataParallel are unwrapped.
        loss_fn: ``loss_fn(model, batch) -> (N,)``, one loss per sample, as everywhere in geomfast
            (:func:`geomfast.losses.next_token` for language models). May be left out for rankme.
        data: the samples to measure on, a few hundred: one batch (a tensor, a tuple as (x, y), or a
            mapping), or an iterable of batches, as a DataLoader or a list is. They are drawn and
            copied once. Several sets of samples are a mapping of their names to such data, as
            ``{"train": (x, y), "test": loader}``; each is measured, and recorded by its name. A
            mapping with a tensor among its values is one batch; :class:`geomfast.SampleSets` are
            always sets, and a list of one batch is always a batch.
        measures: one or several, or "one-pass"; ``geomfast measures`` lists them: rankme (a value
            for every layer), fisher_rank and gradient_covariance_rank (of per-sample gradients;
            also over the first 50,000 parameters, recorded as ``..._first_50k``), hessian_top,
            hessian_trace and hessian_density, and llc, by far the most expensive. The mean loss of
            the samples is recorded with them wherever there is a ``loss_fn``.
        every: ``"log"`` for steps 0, 1, 2, ... 8, 10, 11, 13, 16, ..., four to a doubling; or the
            number of steps between measurements. The last step is always measured.
        out: folder of the records. A second tracker with the same settings resumes there, after the
            last recorded step. If a recorded step has other weights than now, this is another
            training: a warning says so, and nothing more of it is recorded.
        max_overhead: largest time that measuring may add, as a share of the run's: 0.05 for 5%.
            If that is too little for all due measurements, the most expensive measures are taken at
            fewer of the due steps, evenly spread; a notice says which, what each costs, and which
            share would be enough for all. The first measurement, whose cost is unknown, is always
            made and may exceed the budget. None for no limit.
        total_steps: optimiser steps of the whole run, if known: the budget is then spread over the
            whole run instead of being earned before it is spent.
        samples, batch_size, params, position, check: as in :func:`geomfast.measure`; samples are
            of every set.
        options: deprecated; use these arguments and ``settings``.
        states: ``states(model) -> {layer: (N, d)}``, activations for rankme, with labels
            ``block 1``, ``block 2``, ... and ``final``, which records know; None for those of
            ``layers``.
        layers: names of modules, as ``model.named_modules()`` has them, for rankme: the last is the
            ``final`` state, those before it are ``block 1``, ``block 2``, ... Each has to give
            (N, d), or (N, T, d), of which the last position is read. None for the blocks of the
            model's longest ModuleList and, as final, what its output head or last norm has.
        name: of the only set of samples; what a task is in a sweep's records.
        run, scale, seed: of the run in the records; scale is the model's class where not given.
            Trainings of several seeds go into one ``out`` as runs of several names.
        log_to: "tensorboard" (in OUT/tensorboard/RUN), "wandb", a SummaryWriter, or several; see
            :func:`geomfast.tracker.dashboards.dashboards`.
        device: where the copy is kept and measured; None for where the model is.
        raise_failures: raise at :meth:`close` what failed first.
        optimizer: of the training; its learning rate, one for all groups, is read by hessian_edge.
        settings: of single measures, by name: ``llc={"lr": 1e-5}``; the others keep their defaults,
            which ``geomfast measures`` shows.

    Raises:
        TypeError, ValueError: an argument that cannot be right, with its name; a measure that lacks
            its ``loss_fn`` or ``data``; a reduced loss; a model whose blocks cannot be found, that
            cannot be copied, or whose parameters are spread over processes.
        PlanError: ``out`` belongs to something else, or to a tracker with other settings, or the
            run there is of another seed or scale.
        FolderInUse: another tracker writes this run there.
        ImportError: a dashboard that is not installed.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFunction | None = None,
        data: Any = None,
        *,
        measures: str | Sequence[str] = ("rankme",),
        every: str | int = "log",
        out: str | os.PathLike[str],
        max_overhead: float | None = 0.05,
        total_steps: int | None = None,
        samples: int | None = None,
        batch_size: int | None = None,
        params: str | Iterable[str] | None = None,
        position: str = "last",
        check: bool = True,
        options: ModelSettings | None = None,
        states: StatesOf | None = None,
        layers: Sequence[str] | None = None,
        name: str = ONLY,
        run: str = "run",
        scale: str | None = None,
        seed: int = 0,
        log_to: Any = None,
        device: torch.device | str | None = None,
        raise_failures: bool = False,
        optimizer: torch.optim.Optimizer | None = None,
        **settings: Mapping[str, Any],
    ):
        arguments.check_model(model)
        arguments.check_loss(loss_fn)
        names = named_measures(measures)
        every = check_every(every)
        arguments.check_needs(names, loss_fn, data, states)
        arguments.check_names(name=name, run=run)
        arguments.check_optimizer(optimizer)
        arguments.check_records(out, seed, scale, states, raise_failures)
        common = {"samples": samples, "batch_size": batch_size, "params": params}
        common |= {"position": position, "check": check}
        how = arguments.check_settings(options, settings, names, **common)
        layers = arguments.check_layers(layers)
        self.every, self.raise_failures = every, raise_failures
        self.budget = Budget(max_overhead, total_steps)
        self.out = Path(out)
        self.active, self._closed = arguments.rank() == 0, False
        if not self.active:
            logger.info("rank %d measures nothing: the tracker works on rank 0", arguments.rank())
            return
        self._notices = Notices(self.out, run)
        self._told: set[Group] = set()
        self._last = -1
        self._loss: Any = None
        self._tokens: int | None = None
        self._scalars: dict[str, Any] = {}
        self._given: dict[
            str, bool
        ] = {}  # names of scalars, and whether one was at a measured step
        self._seconds = 0.0
        if (said := messages.wide(max_overhead)) is not None:
            self._notices.notice(said)
        with self.budget.spending():
            inner = unwrapped(model)
            self._copy = EvaluationCopy(inner, arguments.check_device(device))
            with preserve_rng_state(self._copy.device), self._copy.measuring():
                sets = sample_sets(data, name, how.samples, self._copy.device)
                arguments.check_sets(sets, states)
                told = self._notices.notice
                self._evaluator = Evaluator(
                    self._copy.module, names, loss_fn, sets, how, states, layers, told, optimizer
                )
                self._evaluator.validate()
            self._named = {"scale": scale or type(inner).__name__, "seed": int(seed)}
            self._data, shared = described(sets)
            shared |= {
                "loss": arguments.called(loss_fn),
                "states": arguments.called(states),
                "layers": layers,
                "model": type(inner).__name__,
                "parameters": sum(p.numel() for p in inner.parameters()),
            }
            of_measures = {measure: how.of(measure) for measure in names}
            self._folder = RunFolder(self.out, run, self._named, shared, of_measures)
            try:
                self._dashboards = dashboards(log_to, self.out / "tensorboard" / run)
                groups = self._evaluator.groups
                self._cadence = Cadence(self._folder.noted(), self._folder.before, groups)
            except BaseException:
                self._folder.close()
                raise
        self._resumed = ResumeCheck(self._folder)
        if (said := self._resumed.notice()) is not None:
            self._notices.notice(said)

    @property
    def overhead(self) -> float:
        """Time that the tracker has added so far, as a share of the run's own."""
        return self.budget.overhead

    def step(
        self, step: int, *, loss: Any = None, tokens: int | None = None, **scalars: Any
    ) -> bool:
        """Say that a step is done; measures where that is due and the budget allows it.

        Args:
            step: optimiser steps taken so far, over the whole run; the same one again is ignored,
                and so is what is no step, with a notice.
            loss: of training, a number or a tensor of one element; recorded as ``train_loss``.
            tokens: training tokens seen so far, for the records.
            scalars: numbers of the loop's own, such as ``test_accuracy``, each a number or a tensor
                of one element; recorded by these names where the step is measured. Names of
                measures and of other records are left out, with a notice.

        Returns:
            Whether the weights were measured.
        """
        if not self.active:
            if self._closed:
                self._notices.notice(
                    "a step comes after close(): it is not measured, nor are later ones"
                )
            return False
        try:
            step = arguments.whole_count("step", step)
            if step < (last := self._last):
                raise ValueError(f"step {step} comes after step {last}: count over the whole run")
        except ValueError as error:
            self._fail("steps", error)
            return False
        if step == self._last:
            return False
        self._last, self._loss, self._tokens, self._scalars = step, loss, tokens, scalars
        self.budget.record_step(step)
        if self._resumed.must_compare(step):
            self._compare()
        if self._resumed.another or step <= self._resumed.last:
            return False
        self._given = dict.fromkeys(scalars, False) | self._given
        if not due(step, self.every):
            return False
        self._cadence.is_due(step)
        groups = self.budget.affordable(step, self.every, self._evaluator.groups)
        if left_out := [group for group in self._evaluator.groups if group not in groups]:
            self._thin(left_out)
        return self._measure(groups)

    def close(self, *, last: bool = True) -> None:
        """Measure the last step, if the budget pays for it, and let others have the folder.

        Args:
            last: whether to measure it; not where the model has changed since.

        Raises:
            Exception: what failed first, where ``raise_failures`` asks for it.
        """
        if not self.active:
            return
        if last and self._last > self._resumed.last and not self._resumed.another:
            if not due(self._last, self.every):
                self._cadence.is_due(self._last)
            done = self._folder.recorded.get(self._last, set())
            left = [one for one in self._evaluator.groups if not done.issuperset(one.names)]
            self._measure(self.budget.affordable_now(left))
        self._let_go()
        if self.raise_failures and self._notices.failures:
            raise next(iter(self._notices.failures.values()))

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        elif self.active:  # what went wrong in the loop is not to wait for a measurement
            self._let_go()

    def _let_go(self) -> None:
        self.active, self._closed = False, True
        self.budget.end()
        self._notices.clear()
        for last in (self._folder.check_there, self._note, *(d.close for d in self._dashboards)):
            try:
                last()
            except Exception as error:
                self._fail("closing", error)
        self._folder.close()
        counts = self._cadence
        if counts.due:
            said = messages.summary(self.budget, counts, self._last)
            then = messages.following(self.out) if self._folder.recorded else ""
            logger.warning("run %s in %s: %s%s", self._folder.run, self.out, said, then)
        if lost := [name for name, recorded in self._given.items() if not recorded]:
            logger.warning(messages.unrecorded(lost, self.every))

    def _compare(self) -> None:
        """See whether a step recorded before is of the weights that the model has now."""
        with self.budget.spending():
            try:
                with preserve_rng_state(self._copy.device), self._copy.measuring():
                    weights = self._copy.refresh()
                said = self._resumed.compare(self._last, weights)
            except Exception as error:
                self._fail("comparing", error)
                return
        if said is not None:
            self._notices.notice(said)
            if self._resumed.another:
                self._notices.failures["run"] = ValueError(said)

    def _measure(self, groups: Sequence[Group]) -> bool:
        """Measure some groups of measures; whether there are any."""
        if not groups:
            return False
        with self.budget.measuring():
            try:
                found: list[Sampled] = []
                with preserve_rng_state(self._copy.device), self._copy.measuring():
                    # Before anything is measured: some models change their weights in a pass.
                    weights = self._copy.refresh()
                    step, folder = self._last, self._folder
                    if step in folder.recorded and folder.of_other_weights(step, weights):
                        return False  # the model has changed after its last step
                    for group in groups:
                        with self.budget.timed(group):
                            found += self._evaluator.measure(group, self._fail)
                self._write(groups, found, weights)
            except Exception as error:
                self._fail("measuring", error)
        return True

    def _write(self, groups: Sequence[Group], found: list[Sampled], weights: str) -> None:
        """Records first: a dashboard that fails has not cost them."""
        own = []
        if self._last not in self._folder.recorded:
            # Before the first one nothing of the run has passed of which this could be a share.
            overhead = self.overhead if any(self._cadence.measured.values()) else None
            own = values_of_run(self._loss, overhead, self._scalars, self._fail)
            self._given |= dict.fromkeys(self._scalars, True)
        device = str(self._copy.device)
        tokens = arguments.tokens_seen(self._tokens, self._fail)
        shared = {**self._named, "tokens": tokens, "weights": weights, "device": device}
        names = [name for group in groups for name in group.names]
        rows, told = rows_of(found, self._data, own, shared)
        self._folder.write(self._last, names, rows, told)
        first = not any(self._cadence.measured.values())
        self._cadence.take(groups)
        if first:
            self._note()
        self._seconds += sum(value.seconds for _, value in found)
        writing = max(self.budget.spent - self._seconds, 0.0)
        self._folder.wall(self.budget.training_seconds, writing)
        for shown in self._dashboards:
            shown.show(self._last, tags(rows, several=len(self._data) > 1))

    def _thin(self, groups: Sequence[Group]) -> None:
        """Note that groups are left out of a step, and say so the first time of each."""
        self._cadence.thin(self._last, groups)
        if not (new := [group for group in groups if group not in self._told]):
            return
        said = messages.thinned(self.budget, self._last, self.every, self._cadence, new)
        if said is None:
            return
        self._told.update(new)
        logger.warning(said)
        with self.budget.spending():
            try:
                self._note()
            except Exception as error:
                self._fail("settings", error)

    def _note(self) -> None:
        """Note how this run is tracked where its settings stand."""
        if self._cadence.due:
            noted = self._cadence.note(self.every, self.budget, self._folder.recorded)
            self._folder.note(**noted)

    def _fail(self, what: str, error: Exception) -> None:
        self._notices.fail(what, error, self._last)
