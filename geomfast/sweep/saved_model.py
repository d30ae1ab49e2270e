"""Models whose weights a sweep has saved, for measuring outside of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from geomfast.runs.errors import PlanError
from geomfast.sweep.folder import read_folder
from geomfast.sweep.plan import RunSpec, Settings
from geomfast.testbed.models.gpt import GPT
from geomfast.testbed.training.checkpoints import folder_name, load_weights, steps_kept


@dataclass(frozen=True)
class SavedModel:
    """A model as it was at a step of a run.

    Attributes:
        spec, settings: of the run.
        step: optimiser steps taken.
        model: on the CPU, in evaluation mode.
    """

    spec: RunSpec
    settings: Settings
    step: int
    model: GPT


def load_model(out: Path, run: str | None = None, step: int | None = None) -> SavedModel:
    """A model of the sweep in a folder.

    Args:
        out: the sweep's folder.
        run: name of the run; the first whose weights are there when None.
        step: of the checkpoint; the last that was kept when None. Of step 0 nothing has to be
            kept: it is the initialisation.

    Raises:
        PlanError: no sweep there, no such run, or no weights of that step.
        CheckpointError: the weights are damaged.
    """
    settings, specs = read_folder(out)
    kept = {spec.run: steps_kept(out / "checkpoints" / spec.run) for spec in specs}
    if run is None:
        run = next((name for name, steps in kept.items() if steps), specs[0].run)
    if run not in kept:
        raise PlanError(f"no run {run!r} in {out}; there are: {', '.join(kept)}")
    spec = next(spec for spec in specs if spec.run == run)
    if step is None:
        if not kept[run]:
            raise PlanError(f"no weights of {run} have been kept in {out}")
        step = kept[run][-1]
    model = GPT(spec.model, spec.seed)
    if step > 0:
        if step not in kept[run]:
            there = ", ".join(map(str, (0, *kept[run])))
            raise PlanError(
                f"no weights of {run} at step {step}; there are those of: {there} "
                "(geomfast sweep --keep all keeps every checkpoint's)"
            )
        load_weights(model, out / "checkpoints" / run / folder_name(step))
    return SavedModel(spec, settings, step, model.eval())
