"""What ``geomfast calibrate-llc`` samples: a model, a loss and data, of any source."""

from __future__ import annotations

import importlib
import re
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import torch
from torch import nn

from geomfast.analysis import task_level
from geomfast.estimators.batches import batches_of, count
from geomfast.estimators.checks import LossFunction
from geomfast.measures import spec_of
from geomfast.records import MIXTURE
from geomfast.runs.errors import PlanError
from geomfast.series.checkpoint import SourceUnreachable
from geomfast.series.sweeps import sweep_of
from geomfast.sweep.plan import settings_of

#: ``module:model:loss:data``; a drive or a path has no three colons.
_IMPORTABLE = re.compile(r"([\w.]+):([\w.]+):([\w.]+):([\w.]+)")
_OF_SWEEPS = ("run", "task")
_OF_LANGUAGE_MODELS = ("revision", "probes")


@dataclass(frozen=True)
class Subject:
    """What chains are run of.

    Attributes:
        model, loss_fn, data: as in :func:`geomfast.llc`.
        name: of the model and of its data, in words.
        told: of the same, for the JSON.
        samples: of the data.
        llc: settings of the llc that its own measurements have.
        figures: folder for the figure; None for none but on request.
    """

    model: nn.Module
    loss_fn: LossFunction
    data: Any
    name: str
    told: dict[str, Any]
    samples: int
    llc: dict[str, Any]
    figures: Path | None


def subject_of(source: str, options: dict[str, Any]) -> Subject:
    """The model of a source, on the device asked for.

    Args:
        source: folder of a sweep, folder of checkpoints or a model of transformers, id of one on
            the hub, or ``module:model:loss:data``.
        options: of the command.

    Raises:
        click.UsageError: there is no such source, or an option does not go with it.
        click.ClickException: the weights are damaged, or out of reach.
    """
    from geomfast.lm.hub import LoadError
    from geomfast.testbed.training.checkpoints import CheckpointError

    try:
        if match := _IMPORTABLE.fullmatch(source):
            _refuse(options, (*_OF_SWEEPS, *_OF_LANGUAGE_MODELS, "step"), "an importable model")
            return _imported(*match.groups(), device=options["device"])
        if sweep := sweep_of(Path(source)):
            _refuse(options, _OF_LANGUAGE_MODELS, "a sweep")
            return _of_sweep(*sweep, options)
        _refuse(options, _OF_SWEEPS, "a language model")
        return _of_language_model(source, options)
    except PlanError as error:
        raise click.UsageError(str(error)) from error
    except (CheckpointError, LoadError, SourceUnreachable) as error:
        raise click.ClickException(str(error)) from error


def _refuse(options: dict[str, Any], names: tuple[str, ...], what: str) -> None:
    for name in names:
        if options[name] is not None:
            raise click.UsageError(f"--{name} does not go with {what}")


def _of_sweep(out: Path, run: str | None, options: dict[str, Any]) -> Subject:
    from geomfast.sweep.samples import level_samples, mixture
    from geomfast.sweep.saved_model import load_model

    saved = load_model(out, options["run"] or run, options["step"])
    samples = level_samples(saved.spec, saved.settings, torch.device(options["device"]))
    task: tuple[Any, Any] = options["task"] or MIXTURE
    if task == MIXTURE:
        probe: Any = mixture(samples)
    else:
        named = {(one.level.task, one.level.level): one for one in samples}
        if task not in named:
            there = ", ".join(one.level.name for one in samples)
            raise click.UsageError(f"--task {task_level(*task)}: {saved.spec.run} has only {there}")
        probe = named[task]
    told: dict[str, Any] = {"run": saved.spec.run, "step": saved.step}
    told |= {"task": probe.named["task"], "level": probe.named["level"]}
    return Subject(
        saved.model.to(options["device"]),
        probe.loss,
        probe.batch,
        f"{told['run']}, step {told['step']}, {task_level(told['task'], told['level'])}",
        told,
        probe.named["n"],
        asdict(settings_of(saved.settings, "llc")),
        out / "figures",
    )


def _of_language_model(source: str, options: dict[str, Any]) -> Subject:
    from geomfast.lm.hf import loss_fn
    from geomfast.series.language_model import OpenedModel
    from geomfast.series.plan import series_of

    revisions = () if options["revision"] is None else (options["revision"],)
    probes = None if options["probes"] is None else (options["probes"],)
    with tempfile.TemporaryDirectory() as folder:
        # Downloads stay in the cache of the hub: of one checkpoint, not of a series.
        found = series_of(source, revisions, Path(folder), {}, probes=probes, keep_cache=True)
    (series,) = found
    steps = {checkpoint.step: checkpoint for checkpoint in series.checkpoints}
    step = max(steps) if options["step"] is None else options["step"]
    if step not in steps:
        there = ", ".join(map(str, steps))
        raise click.UsageError(f"--step {step}: {source} has only {there}")
    opened = series.open(steps[step], series.fetch(steps[step]), options["device"])
    assert isinstance(opened, OpenedModel)
    for notice in opened.notices:
        click.echo(notice, err=True)
    encoded = opened.encoded[0]
    return Subject(
        opened.lm.model,
        loss_fn,
        encoded.batch,
        f"{series.run}, step {step}, {encoded.name}",
        {"run": series.run, "step": step, "task": encoded.name, "level": 1},
        len(encoded),
        asdict(spec_of("llc").settings()),
        None,
    )


def _imported(module: str, model: str, function: str, data: str, *, device: str) -> Subject:
    if "" not in sys.path:  # as `python -m` has it; an installed command has not
        sys.path.insert(0, "")
    try:
        there = importlib.import_module(module)
    except ImportError as error:
        raise click.UsageError(f"cannot import {module}: {error}") from error
    found = []
    for name in (model, function, data):
        value: Any = there
        for part in name.split("."):
            if not hasattr(value, part):
                raise click.UsageError(f"{module} has no {name}")
            value = getattr(value, part)
        found.append(value)
    network: Any
    loss_fn: Any
    batches: Any
    network, loss_fn, batches = found
    # A function without arguments makes it.
    network = network() if not isinstance(network, nn.Module) and callable(network) else network
    batches = batches() if callable(batches) else batches
    if not isinstance(network, nn.Module):
        given = f"{module}:{model}"
        raise click.UsageError(f"{given} is no module of torch, nor a function that gives one")
    if not callable(loss_fn):
        raise click.UsageError(f"{module}:{function} is no function of a model and a batch")
    try:
        batches = batches_of(batches)
        samples = sum(count(batch, least=1) for batch in batches)
    except ValueError as error:
        raise click.UsageError(f"{module}:{data}: {error}") from error
    name = f"{module}:{model}"
    told = {"run": name, "step": None, "task": data, "level": None}
    defaults = asdict(spec_of("llc").settings())
    moved = network.to(device)
    loss: Any = loss_fn
    return Subject(moved, loss, batches, f"{name}, {data}", told, samples, defaults, None)
