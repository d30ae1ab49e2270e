"""Training and measuring a run of a sweep, or a group of them: a run is a group of one."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from functools import cached_property, partial

import torch

from geomfast.records import parts_of, write_part
from geomfast.runs.errors import RunError
from geomfast.runs.executors.events import USER_ERRORS, Progress
from geomfast.runs.failures import clear_failure, mark_failed
from geomfast.runs.recorded import of_other_weights, refuse_gone
from geomfast.runs.training import timed, train_to_checkpoints
from geomfast.sweep.eigenvectors import Eigenvectors
from geomfast.sweep.jobs import Job, StackedJob, SweepJob, missing, schedule, untrained
from geomfast.sweep.measuring import measure
from geomfast.sweep.plan import rate_at, train_settings
from geomfast.sweep.samples import LevelSamples, level_samples
from geomfast.testbed.models.gpt import GPT
from geomfast.testbed.training import checkpoints
from geomfast.testbed.training.loop import Trainer
from geomfast.testbed.training.mixture_batches import MixtureBatches
from geomfast.testbed.training.protocol import TrainerProtocol
from geomfast.testbed.training.settings import peak_rate
from geomfast.testbed.training.stacked import StackedTrainer


class Attempt:
    """One attempt at a run or a group, from wherever it was left.

    A member of a group whose loss or gradient is not finite stays at its last finite state, has no
    records from there on, and its failure is written down in OUT/failures; so is that of a member
    that cannot be measured. A run by itself fails with what went wrong.

    Args:
        job: whose folder this process holds.
    """

    def __init__(self, job: SweepJob) -> None:
        self.job, self.settings, self.members = job, job.settings, job.members
        self.spec = self.members[0].spec
        self.alone = not isinstance(job, StackedJob)
        #: Steps at which each run lacks measures, and which.
        self.lacking = {member.name: missing(member) for member in self.members}
        #: Steps at which each has been measured by this attempt.
        self.measured: dict[str, set[int]] = {name: set() for name in self.lacking}
        #: Runs of which nothing more is expected.
        self.failed: set[str] = set()

    @cached_property
    def samples(self) -> list[LevelSamples]:
        """Diagnostic samples of every task-level."""
        return level_samples(self.spec, self.settings, torch.device(self.job.device))

    @cached_property
    def model(self) -> GPT:
        """The model for measuring; gets the weights of one member after the other."""
        return GPT(self.spec.model).to(self.job.device).eval()

    def finished(self, progress: Progress, stop: Callable[[], bool]) -> bool:
        """Train and measure; whether nothing is left to do.

        Args:
            progress, stop: see :func:`geomfast.runs.training.train_to_checkpoints`.
        """
        if not self.alone:
            for member in self.members:
                clear_failure(self.job.out, member.name)
            self._drop_failed(self._failed_before())
        self._measure_kept()
        if self._done():
            return True
        left = [step for lacking in self.lacking.values() for step in lacking]
        trainer = self._trainer()
        train_to_checkpoints(
            self.job,
            trainer,
            schedule(self.settings),
            (min(left), max(left)),
            partial(self._measure, trainer),
            progress,
            lambda: stop() or self._done(),  # before the last step when no member has got there
            keep_weights=self.alone and self.job.keep == "all",
        )
        if not self._done():
            return False
        for member in self.members:
            gone = set(missing(member))
            if member.name in self.failed:
                gone &= self.measured[member.name]
            refuse_gone(member.records, gone)
        return True

    def _trainer(self) -> TrainerProtocol:
        job, spec, training = self.job, self.spec, train_settings(self.settings, self.spec.varied)
        if not isinstance(job, StackedJob):
            return Trainer(spec.scale, spec.seed, spec.trained, training, job.device)
        batches = MixtureBatches(spec.trained, self.settings.batch_size, job.device)
        seeds = [spec.seed for spec in job.specs]
        return StackedTrainer(
            spec.model, seeds, training, batches, job.members_per_program, job.device
        )

    def _done(self) -> bool:
        return not any(self.lacking.values())

    def _failed_before(self) -> dict[int, int]:
        """Seed -> step of members that had failed by the last state saved."""
        saved = checkpoints.steps_saved(self.job.checkpoints)
        if not saved:
            return {}
        folder = self.job.checkpoints / checkpoints.folder_name(saved[-1])
        meta = checkpoints.read_meta_of(folder, self.job.identity)
        checkpoints.require(meta, folder, "failed")
        return dict(meta["failed"])

    def _drop_failed(self, failed: dict[int, int]) -> None:
        """Expect nothing of members from where they failed, and write down that they did."""
        for member in self.members:
            if (step := failed.get(member.spec.seed)) is not None:
                lacking = self.lacking[member.name]
                self.lacking[member.name] = {
                    at: names for at, names in lacking.items() if at <= step
                }
                self.failed.add(member.name)
                training = train_settings(self.settings, member.spec.varied)
                rate = peak_rate(training, member.spec.scale)
                why = f"loss or gradient not finite at step {step} (learning rate {rate:g}): "
                mark_failed(self.job.out, member.name, step, f"{why}lower the learning rate", "")

    def _measure_kept(self) -> None:
        """Measure weights that were kept, where something is lacking, without training."""
        for member in self.members:
            kept = checkpoints.steps_kept(member.checkpoints)
            for step in untrained(self.lacking[member.name], kept):
                folder = member.checkpoints / checkpoints.folder_name(step)
                meta = checkpoints.read_meta_of(folder, self.job.identity_of(member))
                checkpoints.require(meta, folder, "tokens")
                checkpoints.load_weights(self.model, folder)
                self._record(member, step, meta["tokens"])

    def _measure(self, trainer: TrainerProtocol, failed: dict[int, int]) -> None:
        """Measure what is lacking at a checkpoint, one member after the other."""
        self._drop_failed(failed)
        step = trainer.step
        keeps = step > 0 and (self.job.keep == "all" or step == self.settings.steps)
        for member, state in zip(self.members, trainer.states(), strict=True):
            if failed.get(member.spec.seed, step) < step:
                continue
            # Kept by an attempt that was killed before the next state.
            kept = step in checkpoints.steps_kept(member.checkpoints)
            lacks = step in self.lacking[member.name]
            if not lacks and (kept or not keeps):
                continue
            self.model.load_state_dict(state)
            if keeps and not kept:
                # Before the records: whatever has them all has the last weights too.
                with timed(trainer, "write"):
                    folder = member.checkpoints / checkpoints.folder_name(step)
                    meta = {"step": step, "tokens": trainer.tokens}
                    identity = self.job.identity_of(member)
                    checkpoints.write(folder, self.model.state_dict(), None, identity, meta)
            if lacks:
                for what, seconds in self._record(member, step, trainer.tokens).items():
                    trainer.seconds[what] += seconds

    def _record(self, member: Job, step: int, tokens: int) -> dict[str, float]:
        """Measure a member; what goes wrong with one leaves the others as they are."""
        lacking = self.lacking[member.name]
        try:
            took = record(member, self.model, step, tokens, self.samples, lacking[step])
        except Exception as error:
            if self.alone or isinstance(error, OSError):  # the disk is everyone's
                raise
            details = "" if isinstance(error, USER_ERRORS) else traceback.format_exc()
            why = f"{type(error).__name__}: {error}"
            mark_failed(self.job.out, member.name, step, why, details)
            self.failed.add(member.name)
            lacking.clear()
            return {}
        del lacking[step]
        self.measured[member.name].add(step)
        return took


def record(
    job: Job, model: GPT, step: int, tokens: int, samples: list[LevelSamples], names: set[str]
) -> dict[str, float]:
    """Measure a run's model at a checkpoint and write what was found.

    Args:
        job: the run.
        model: as it is there, in evaluation mode.
        step, tokens: taken, and seen without padding, until there.
        samples: of every task-level.
        names: of measures, and behaviour.

    Returns:
        Seconds it took to ``measure`` and to ``write``.

    Raises:
        RunError: other measures of this checkpoint were taken of other weights.
        OSError: the disk is full or not writable.
    """
    begin = time.perf_counter()
    eigenvectors = Eigenvectors(job.checkpoints, step)
    rate = rate_at(step, job.settings, job.spec)
    rows = measure(model, samples, names, job.settings, eigenvectors, rate)
    measured = time.perf_counter()
    weights = checkpoints.weights_hash(model)
    if other := of_other_weights(job.records, step, weights):
        raise RunError(
            f"{other}: the weights of step {step} came out different from the ones "
            "measured there; use the same --threads and --device, or another OUT"
        )
    shared = {
        "run": job.spec.run,
        "scale": job.spec.scale,
        "seed": job.spec.seed,
        "step": step,
        "tokens": tokens,
        "weights": weights,
    }
    eigenvectors.save()
    for path, part in parts_of(job.records, step, names, [{**shared, **row} for row in rows]):
        write_part(path, part)
    return {"measure": measured - begin, "write": time.perf_counter() - measured}
