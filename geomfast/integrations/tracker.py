"""Live measures inside anyone's training loop, on a copy of the weights."""

from __future__ import annotations

import logging
import math
import os
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from geomfast.files import fingerprint
from geomfast.integrations.measuring import Found, Options, check_measures
from geomfast.integrations.tracking.budget import Budget, check_every, due
from geomfast.integrations.tracking.copies import EvaluationCopy, aside, unwrapped
from geomfast.integrations.tracking.dashboards import dashboards, tags
from geomfast.integrations.tracking.folder import RunFolder
from geomfast.integrations.tracking.samples import data_hash, samples_of
from geomfast.integrations.tracking.values import LOSS, StatesOf, Taking
from geomfast.measures.checks import LossFunction, count
from geomfast.records import MIXTURE
from geomfast.sweep.failures import clear_failure, mark_failed
from geomfast.training.checkpoints import weights_hash

logger = logging.getLogger("geomfast")
TRAIN_LOSS, OVERHEAD = "train_loss", "tracker_overhead"


class Tracker:
    """Measures a model while it is trained, and writes the records that `geomfast report` reads.

    Call :meth:`step` after every optimiser step, with ``step(0)`` before the first one to have the
    untrained network too.  Where a measurement is due, a copy of the model that was made once takes
    over the weights and is measured in evaluation mode.  The model itself, its gradients, mode and
    hooks, all random numbers and the default type stay as they are, so that training comes out the
    same to the bit.

    Measuring happens between two steps and not beside them.  On a CPU both want all of its cores,
    and measures switch kernels for the whole process while they run; on a CUDA device the copy has
    a stream of its own, which runs beside what training has queued.

    In distributed training only rank 0 measures, on the weights that all ranks share; the others
    wait for it where they next meet.  Weights that are spread over ranks are refused.

    Args:
        model: any module; compiled ones and those in DistributedDataParallel are unwrapped.
        loss_fn: ``loss_fn(model, batch) -> (N,)``, one loss per sample, as everywhere in geomfast
            (:func:`geomfast.losses.next_token` serves language models).  May be left out for rankme
            alone.
        data: the samples to measure on, a few hundred: one batch, or an iterable of batches.  They
            are drawn and copied once.
        measures: of :data:`geomfast.integrations.measuring.MEASURES`.  The mean loss of the samples
            is recorded with them wherever there is a ``loss_fn``.
        every: ``"log"`` for steps 0, 1, 2, ... 8, 10, 11, 13, 16, ..., four to a doubling; or every
            so many steps.
        out: folder of the records.  A second tracker with the same settings goes on there; a step
            that is recorded is not measured again.
        max_overhead: what measuring may add to the run's time, as a share of it; it is measured,
            and less is measured than is due where that would take more.  None for no bound.
        total_steps: optimiser steps of the whole run, where they are known: the budget is then
            spread over the whole run, and not earned before it is spent.
        options: how measures are taken.
        states: ``states(model) -> {layer: (N, d)}``, activations for rankme, with labels
            ``block 1`` ... and ``final``; None for those of ``layers``.
        layers: names of the modules that are the blocks; None for the model's longest ModuleList.
        name: of the samples; what a task is in a sweep's records.
        run, scale, seed: of the run in the records; scale is the model's class where not given.
        log_to: "tensorboard" (in OUT/tensorboard/RUN), "wandb", a SummaryWriter, or several; see
            :func:`geomfast.integrations.tracking.dashboards.dashboards`.
        device: where the copy is kept and measured; None for where the model is.
        raise_failures: raise at :meth:`close` what failed first.  Nothing that fails in a measure,
            or in writing, ends the training: it is logged once, written to OUT/failures, and
            recorded as a value of NaN.

    Raises:
        TypeError, ValueError: an argument that cannot be right, with its name; a measure that lacks
            its ``loss_fn`` or ``data``; a reduced loss; a model whose blocks cannot be found, that
            cannot be copied, or whose parameters are spread over processes.
        PlanError: ``out`` belongs to something else, or to a tracker with other settings.
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
        names = check_measures([measures] if isinstance(measures, str) else measures)
        check_every(every)
        _check_needs(names, loss_fn, data, states)
        for what, text in (("name", name), ("run", run)):
            if not text or "/" in text:
                raise ValueError(f"{what} must be a name without a slash, not {text!r}")
        self.every, self.raise_failures = every, raise_failures
        self.budget = Budget(max_overhead, total_steps)
        self.out = Path(out)
        self.active = _rank() == 0
        if not self.active:
            logger.info("rank %d measures nothing: the tracker works on rank 0", _rank())
            return
        self._failures: dict[str, Exception] = {}
        self._notices: set[str] = set()
        self._last, self._due, self._measured = -1, 0, 0
        self._loss: Any = None
        self._tokens: int | None = None
        self._thinned_from: int | None = None
        self._seconds = 0.0
        options = options or Options()
        with self.budget.spending():
            inner = unwrapped(model)
            self._copy = EvaluationCopy(inner, device)
            with aside(self._copy.device), self._copy.measuring():
                given = data is not None
                device = self._copy.device
                batches = samples_of(data, options.samples, device) if given else []
                self._taking = Taking(
                    self._copy.module,
                    names,
                    loss_fn,
                    batches,
                    options,
                    states,
                    layers,
                    self._notice,
                )
                self._taking.try_out()
                self._data = data_hash(batches)
            self._named = {"scale": scale or type(inner).__name__, "seed": seed}
            self._name = name
            settings = {
                "name": name,
                "data": self._data,
                "samples": sum(count(batch, least=1) for batch in batches),
                "loss": _called(loss_fn),
                "states": _called(states),
                "layers": None if layers is None else list(layers),
                "model": type(inner).__name__,
                "parameters": sum(p.numel() for p in inner.parameters()),
            }
            of_measures = {measure: options.of(measure) for measure in names}
            self._folder = RunFolder(self.out, run, settings, of_measures)
            try:
                self._dashboards = dashboards(log_to, self.out / "tensorboard" / run)
                self._note()
            except BaseException:
                self._folder.close()
                raise

    @property
    def overhead(self) -> float:
        """What the tracker has added to the run's time so far, as a share of it."""
        return self.budget.overhead

    def step(self, step: int, *, loss: Any = None, tokens: int | None = None) -> bool:
        """Say that a step is done; measures where that is due and the budget allows it.

        Args:
            step: optimiser steps taken so far, over the whole run; the same one again is ignored.
            loss: of training, a number or a tensor of one element; recorded as ``train_loss``.
            tokens: training tokens seen so far, for the records.

        Returns:
            Whether the weights were measured.
        """
        if not self.active or step == self._last:
            return False
        if step < self._last:
            said = f"step {step} comes after step {self._last}: count over the whole run"
            self._fail("steps", ValueError(said))
            return False
        self._last, self._loss, self._tokens = step, loss, tokens
        self.budget.passed(step)
        if not due(step, self.every) or step in self._folder.recorded:
            return False
        self._due += 1
        if not self.budget.allows(step, self.every):
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
        there = self._last < 0 or self._last in self._folder.recorded
        if last and not there and self.budget.affords():
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
        self.active = False
        if not self._failures:
            clear_failure(self.out, self._folder.run)
        for last in (self._note, *(shown.close for shown in self._dashboards)):
            try:
                last()
            except Exception as error:
                self._fail("closing", error)
        self._folder.close()

    def _measure(self) -> None:
        with self.budget.spending(measuring=True):
            try:
                with aside(self._copy.device), self._copy.measuring():
                    self._copy.refresh()
                    found = list(self._taking.take(self._fail))
                self._write(found)
            except Exception as error:
                self._fail("measuring", error)

    def _write(self, found: list[Found]) -> None:
        """Records first: a dashboard that fails has not cost them."""
        of_samples = {"task": self._name, "level": 1, "data": self._data}
        task, level = MIXTURE
        of_run = {"task": task, "level": level, "data": ""}
        of_the_run = self._of_the_run()
        rows = [_row(one, of_samples) for one in found] + [_row(one, of_run) for one in of_the_run]
        shared = {
            **self._named,
            "tokens": self._tokens,
            "weights": weights_hash(self._copy.module),
            "device": str(self._copy.device),
        }
        names = {LOSS, *self._taking.measures} if self._taking.loss_fn else self._taking.measures
        hashes = {fingerprint(one.settings): one.settings for one in (*found, *of_the_run)}
        self._folder.write(self._last, names, [{**row, **shared} for row in rows], hashes)
        self._measured += 1
        self._seconds += sum(one.seconds for one in found)
        self._folder.wall(self.budget.rest, self.budget.spent - self._seconds)
        for shown in self._dashboards:
            shown.show(self._last, tags(rows))

    def _of_the_run(self) -> list[Found]:
        """What is known of the run itself at this moment."""
        # Before the first one nothing of the run has passed of which this could be a share.
        known = {OVERHEAD: self.overhead} if self._measured else {}
        if self._loss is not None:
            try:
                loss = self._loss.detach() if isinstance(self._loss, Tensor) else self._loss
                known[TRAIN_LOSS] = float(loss)
            except (TypeError, ValueError, RuntimeError) as error:
                self._fail(TRAIN_LOSS, error)
        return [
            Found(name, "", value, math.nan, 1, 0.0, "", {"measure": name})
            for name, value in known.items()
        ]

    def _thin(self) -> None:
        if self._thinned_from is not None:
            return
        self._thinned_from = self._last
        known = self.budget.total is not None
        advice = "fewer samples cost less" if known else "with total_steps early ones come at once"
        logger.warning(
            "from step %d on less is measured than is due: measurements would add more than "
            "max_overhead = %g to the run's time (%s)",
            self._last,
            self.budget.share,
            advice,
        )
        with self.budget.spending():
            try:
                self._note()
            except Exception as error:
                self._fail("settings", error)

    def _note(self) -> None:
        """Note how this run is tracked where its settings stand."""
        self._folder.note(
            every=self.every,
            max_overhead=self.budget.share,
            total_steps=self.budget.total,
            overhead=self.overhead,
            due=self._due,
            measured=self._measured,
            thinned_from=self._thinned_from,
        )

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
        try:
            mark_failed(self.out, self._folder.run, self._last, said, details)
        except OSError as full:
            self._notice(f"the failure cannot be written down: {full}")


def _row(one: Found, named: dict[str, Any]) -> dict[str, Any]:
    values = {key: getattr(one, key) for key in ("measure", "layer", "value", "stderr", "n")}
    how = {"settings": fingerprint(one.settings), "backend": one.backend, "seconds": one.seconds}
    return {**named, **values, **how}


def _check_needs(names: Sequence[str], loss_fn: Any, data: Any, states: Any) -> None:
    if not names:
        raise ValueError("measures names none")
    without = [name for name in names if name != "rankme"]
    if without and loss_fn is None:
        raise ValueError(
            f"{without[0]} needs loss_fn: loss_fn(model, batch) -> (N,), one loss per sample; "
            "geomfast.losses.next_token serves language models"
        )
    if data is None and (loss_fn is not None or states is None):
        raise ValueError("data must be given: one batch of samples, or an iterable of batches")


def _called(function: Any) -> str | None:
    """What a function is called, for the settings."""
    return getattr(function, "__qualname__", type(function).__name__) if function else None


def _rank() -> int:
    """Of this process in distributed training, also before its processes have met."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank()
    return int(os.environ.get("RANK", "0"))
