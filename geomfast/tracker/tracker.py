"""Live measures inside anyone's training loop, on a copy of the weights."""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import nn

from geomfast.estimators.batches import Batches, count
from geomfast.estimators.checks import LossFunction
from geomfast.files import fingerprint
from geomfast.measures.model.measuring import MeasuredValue, Options, check_measures
from geomfast.records import MIXTURE
from geomfast.runs.failures import clear_failure, mark_failed
from geomfast.tracker import arguments, messages
from geomfast.tracker.budget import Budget, check_every, due
from geomfast.tracker.cadence import Cadence
from geomfast.tracker.copies import EvaluationCopy, preserve_rng_state, unwrapped
from geomfast.tracker.dashboards import dashboards, tags
from geomfast.tracker.folder import RunFolder
from geomfast.tracker.resume import ResumeCheck
from geomfast.tracker.samples import data_hash, samples_of
from geomfast.tracker.values import LOSS, Evaluator, StatesOf, row, values_of_run

logger = logging.getLogger("geomfast")


class Tracker:
    """Measures a model while it is trained, and writes the records that `geomfast report` reads.

    Call :meth:`step` after every optimiser step, with ``step(0)`` before the first one to have the
    untrained network too, and :meth:`close` after the last. Where a measurement is due, a copy of
    the model that was made once takes over the weights and is measured in evaluation mode. The
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

    Nothing that :meth:`step` meets ends the training: what fails is logged once, written to
    OUT/failures, and recorded as a value of NaN.

    Args:
        model: any module; compiled ones and those in DistributedDataParallel are unwrapped.
        loss_fn: ``loss_fn(model, batch) -> (N,)``, one loss per sample, as everywhere in geomfast
            (:func:`geomfast.losses.next_token` serves language models). May be left out for rankme
            alone.
        data: the samples to measure on, a few hundred: one batch (a tensor, a tuple as (x, y), or a
            mapping), or an iterable of batches, as a DataLoader or a list is. They are drawn and
            copied once.
        measures: one or several of

            - ``rankme``: effective dimensions of every layer's activations, one vector per sample;
            - ``fisher_rank``, ``gradient_covariance_rank``: effective rank of the samples'
              gradients, as they are and less their mean. Each also over the first 50,000
              parameters, recorded as ``..._first_50k``;
            - ``hessian_top``, ``hessian_trace``: largest eigenvalue and trace of the Hessian of the
              mean loss;
            - ``llc``: the local learning coefficient, by far the most expensive.

            The mean loss of the samples is recorded with them wherever there is a ``loss_fn``.
        every: ``"log"`` for steps 0, 1, 2, ... 8, 10, 11, 13, 16, ..., four to a doubling; or every
            so many steps. Either way the last step as well.
        out: folder of the records. A second tracker with the same settings goes on there, after the
            last step recorded. Where a step is recorded of other weights than it has this time, the
            training is another one: that is said, and nothing more of it is recorded.
        max_overhead: what measuring may add to the run's time, as a share of it: 0.05 for 5%. Less
            is measured than is due where that would take more; a notice says so, and what would
            pay for all. None for no bound, to measure all that is due.
        total_steps: optimiser steps of the whole run, where they are known: the budget is then
            spread over the whole run, and not earned before it is spent.
        options: how measures are taken, an Options of :mod:`geomfast.measures.model.measuring`.
        states: ``states(model) -> {layer: (N, d)}``, activations for rankme, with labels
            ``block 1``, ``block 2``, ... and ``final``, which records know; None for those of
            ``layers``.
        layers: names of modules, as ``model.named_modules()`` has them, for rankme: the last is the
            ``final`` state, those before it are ``block 1``, ``block 2``, ... Each has to give
            (N, d), or (N, T, d), of which the last position is read. None for the blocks of the
            model's longest ModuleList and, as final, what its output head or last norm has.
        name: of the samples; what a task is in a sweep's records.
        run, scale, seed: of the run in the records; scale is the model's class where not given.
            Trainings of several seeds go into one ``out`` as runs of several names.
        log_to: "tensorboard" (in OUT/tensorboard/RUN), "wandb", a SummaryWriter, or several; see
            :func:`geomfast.tracker.dashboards.dashboards`.
        device: where the copy is kept and measured; None for where the model is.
        raise_failures: raise at :meth:`close` what failed first.

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
        options: Options | None = None,
        states: StatesOf | None = None,
        layers: Sequence[str] | None = None,
        name: str = "probe",
        run: str = "run",
        scale: str | None = None,
        seed: int = 0,
        log_to: Any = None,
        device: torch.device | str | None = None,
        raise_failures: bool = False,
    ):
        arguments.check_model(model)
        arguments.check_loss(loss_fn)
        names = check_measures([measures] if isinstance(measures, str) else measures)
        check_every(every)
        arguments.check_needs(names, loss_fn, data, states)
        arguments.check_names(name=name, run=run)
        arguments.check_records(out, seed, scale, states, raise_failures)
        options, layers = arguments.check_options(options), arguments.check_layers(layers)
        self.every, self.raise_failures = every, raise_failures
        self.budget = Budget(max_overhead, total_steps)
        self.out = Path(out)
        self.active, self._closed = arguments.rank() == 0, False
        if not self.active:
            logger.info("rank %d measures nothing: the tracker works on rank 0", arguments.rank())
            return
        self._failures: dict[str, Exception] = {}
        self._notices: set[str] = set()
        self._last = -1
        self._loss: Any = None
        self._tokens: int | None = None
        self._scalars: dict[str, Any] = {}
        self._seconds = 0.0
        if (said := messages.wide(max_overhead)) is not None:
            self._notice(said)
        with self.budget.spending():
            inner = unwrapped(model)
            self._copy = EvaluationCopy(inner, arguments.check_device(device))
            with preserve_rng_state(self._copy.device), self._copy.measuring():
                given = data is not None
                device = self._copy.device
                batches = samples_of(data, options.samples, device) if given else Batches()
                self._evaluator = Evaluator(
                    self._copy.module,
                    names,
                    loss_fn,
                    batches,
                    options,
                    states,
                    layers,
                    self._notice,
                )
                self._evaluator.validate()
                self._data = data_hash(batches)
            self._named = {"scale": scale or type(inner).__name__, "seed": int(seed)}
            self._name = name
            settings = {
                "name": name,
                "data": self._data,
                "samples": sum(count(batch, least=1) for batch in batches),
                "loss": arguments.called(loss_fn),
                "states": arguments.called(states),
                "layers": layers,
                "model": type(inner).__name__,
                "parameters": sum(p.numel() for p in inner.parameters()),
            }
            of_measures = {measure: options.of(measure) for measure in names}
            self._folder = RunFolder(self.out, run, self._named, settings, of_measures)
            try:
                self._dashboards = dashboards(log_to, self.out / "tensorboard" / run)
                self._cadence = Cadence(self._folder.noted(), self._folder.before)
            except BaseException:
                self._folder.close()
                raise
        self._resumed = ResumeCheck(self._folder)
        if (said := self._resumed.notice()) is not None:
            self._notice(said)

    @property
    def overhead(self) -> float:
        """What the tracker has added to the run's time so far, as a share of it."""
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
                self._notice("a step comes after close(): it is not measured, nor are later ones")
            return False
        try:
            step = arguments.whole_step(step)
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
        if not due(step, self.every):
            return False
        self._cadence.is_due(step)
        if not self.budget.should_measure(step, self.every):
            self._thin()
            return False
        self._measure()
        return True

    def close(self, *, last: bool = True) -> None:
        """Measure the last step, if the budget pays for it, and let others have the folder.

        Args:
            last: whether to measure it; not where the model has changed since.

        Raises:
            Exception: what failed first, where ``raise_failures`` asks for it.
        """
        if not self.active:
            return
        new = self._last > self._resumed.last and self._last not in self._folder.recorded
        if last and new and not self._resumed.another:
            if not due(self._last, self.every):
                self._cadence.is_due(self._last)
            if self.budget.can_afford_now():
                self._measure()
        self._let_go()
        if self.raise_failures and self._failures:
            raise next(iter(self._failures.values()))

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
        if not self._failures:
            clear_failure(self.out, self._folder.run)
        for last in (
            self._folder.check_there,
            self._note,
            *(shown.close for shown in self._dashboards),
        ):
            try:
                last()
            except Exception as error:
                self._fail("closing", error)
        self._folder.close()
        counts = self._cadence
        if counts.due:
            said = messages.summary(self.budget, counts.due, counts.measured, self._last)
            logger.warning("run %s in %s: %s", self._folder.run, self.out, said)

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
            self._notice(said)
            if self._resumed.another:
                self._failures["run"] = ValueError(said)

    def _measure(self) -> None:
        with self.budget.spending(measuring=True):
            try:
                with preserve_rng_state(self._copy.device), self._copy.measuring():
                    # Before anything is measured: some models change their weights in a pass.
                    weights = self._copy.refresh()
                    found = list(self._evaluator.measure(self._fail))
                self._write(found, weights)
            except Exception as error:
                self._fail("measuring", error)

    def _write(self, found: list[MeasuredValue], weights: str) -> None:
        """Records first: a dashboard that fails has not cost them."""
        of_samples = {"task": self._name, "level": 1, "data": self._data}
        task, level = MIXTURE
        of_run = {"task": task, "level": level, "data": ""}
        # Before the first one nothing of the run has passed of which this could be a share.
        overhead = self.overhead if self._cadence.measured else None
        of_the_run = values_of_run(self._loss, overhead, self._scalars, self._fail)
        rows = [row(one, of_samples) for one in found] + [row(one, of_run) for one in of_the_run]
        device = str(self._copy.device)
        shared = {**self._named, "tokens": self._tokens, "weights": weights, "device": device}
        names = (
            {LOSS, *self._evaluator.measures}
            if self._evaluator.loss_fn
            else self._evaluator.measures
        )
        hashes = {fingerprint(one.settings): one.settings for one in (*found, *of_the_run)}
        self._folder.write(self._last, names, [{**one, **shared} for one in rows], hashes)
        self._cadence.measured += 1
        if self._cadence.measured == 1:
            self._note()
        self._seconds += sum(one.seconds for one in found)
        self._folder.wall(self.budget.training_seconds, self.budget.spent - self._seconds)
        for shown in self._dashboards:
            shown.show(self._last, tags(rows))

    def _thin(self) -> None:
        counts = self._cadence
        counts.thin(self._last)
        if "thinned" in self._notices:
            return
        said = messages.thinned(self.budget, self._last, self.every, counts.due, counts.measured)
        if said is None:
            return
        self._notices.add("thinned")
        logger.warning(said)
        with self.budget.spending():
            try:
                self._note()
            except Exception as error:
                self._fail("settings", error)

    def _note(self) -> None:
        """Note how this run is tracked where its settings stand."""
        if self._cadence.due:
            recorded = len(self._folder.recorded)
            self._folder.note(**self._cadence.note(self.every, self.budget, recorded))

    def _notice(self, said: str) -> None:
        """Log a notice the first time it is given."""
        if said not in self._notices:
            self._notices.add(said)
            logger.warning(said)

    def _fail(self, what: str, error: Exception) -> None:
        """Note a failure and go on; only the first of a kind is logged."""
        if what not in self._failures:
            self._failures[what] = error
            logger.warning(
                "%s failed at step %d, training goes on: %s: %s",
                what,
                self._last,
                type(error).__name__,
                error,
            )
        details = "".join(traceback.format_exception(error))
        said = f"{what}: {type(error).__name__}: {error}"
        mark_failed(self.out, self._folder.run, self._last, said, details)
