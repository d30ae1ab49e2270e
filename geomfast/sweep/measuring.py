"""All measures of one checkpoint: one forward pass, one batch of spectra, many records."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from geomfast.files import fingerprint
from geomfast.measures.activations import Observation, observe
from geomfast.measures.behaviour import answer_loss, mean_and_stderr
from geomfast.measures.gradients import backend as gradient_backend
from geomfast.measures.gradients import gradient_ranks
from geomfast.measures.spectra import backend, rankme
from geomfast.records import FINAL, block
from geomfast.sweep.plan import (
    BEHAVIOUR,
    FIRST_ENTRIES,
    Cell,
    Settings,
    diagnostic_settings,
    measure_settings,
)
from geomfast.tasks import DIAGNOSTIC_STREAM, TaskLevel

Row = dict[str, Any]

GRADIENT_MEASURES = {"fisher_rank", "gradient_covariance_rank"}


@dataclass(frozen=True)
class Probe:
    """The fixed diagnostic samples of one task-level, on the device."""

    level: TaskLevel
    tokens: Tensor
    answer_start: int
    data: str


def probes(cell: Cell, settings: Settings, device: torch.device) -> list[Probe]:
    """The diagnostic samples of every task-level of a cell."""
    made = []
    for level in cell.task_levels:
        drawn = level.examples(DIAGNOSTIC_STREAM, 0, settings.samples)
        tokens = torch.from_numpy(drawn.tokens).to(device)
        data, _ = diagnostic_settings(settings, level)
        made.append(Probe(level, tokens, drawn.answer_start, data))
    return made


def measure(
    model: torch.nn.Module, samples: list[Probe], measures: set[str], settings: Settings
) -> list[Row]:
    """Take the named measures of a model; the caller adds what names the checkpoint.

    Every layer of every task-level goes through the spectra kernel as one batch.

    Returns:
        One row per value, with task, level, layer, measure, value, stderr, n, settings, data,
        backend, device and seconds; the forward pass they share is counted in equal parts.
    """
    begin = time.perf_counter()
    observed = []
    if measures & {BEHAVIOUR, "rankme"}:
        observed = [
            observe(model, probe.tokens, probe.answer_start, position=settings.position)
            for probe in samples
        ]
    rows: list[Row] = []
    if BEHAVIOUR in measures:
        rows += _behaviour(samples, observed, settings)
    forward = time.perf_counter() - begin
    if "rankme" in measures:
        rows += _rankme(samples, observed, settings)
    for row in rows:
        row["seconds"] += forward / len(rows)
    if wanted := sorted(measures & GRADIENT_MEASURES):
        rows += _gradient_ranks(model, samples, wanted, settings)
    for row in rows:
        row["device"] = str(samples[0].tokens.device)
    return rows


def _behaviour(
    samples: list[Probe], observed: list[Observation], settings: Settings
) -> Iterator[Row]:
    named = fingerprint(measure_settings(settings, BEHAVIOUR))
    for probe, seen in zip(samples, observed, strict=True):
        for name, values in (("accuracy", seen.exact), ("answer_logprob", seen.logprob)):
            value, stderr = mean_and_stderr(values)
            yield _row(probe, "", name, value, stderr, named, "torch", 0.0)


def _rankme(samples: list[Probe], observed: list[Observation], settings: Settings) -> Iterator[Row]:
    begin = time.perf_counter()
    activations = torch.stack([seen.activations for seen in observed])  # (levels, layers, N, d)
    values = rankme(activations, center=settings.center, eps=settings.eps).tolist()
    ran_on = backend(activations)
    layers = activations.shape[1]
    labels = [*(block(i) for i in range(1, layers)), FINAL]
    seconds = (time.perf_counter() - begin) / (len(samples) * layers)
    named = fingerprint(measure_settings(settings, "rankme"))
    for probe, per_layer in zip(samples, values, strict=True):
        for label, value in zip(labels, per_layer, strict=True):
            if math.isnan(value):  # from a backend that does not wait for the GPU to raise
                raise ValueError(f"activations of {probe.level.name} at {label} are not finite")
            yield _row(probe, label, "rankme", value, float("nan"), named, ran_on, seconds)


def _gradient_ranks(
    model: torch.nn.Module, samples: list[Probe], wanted: list[str], settings: Settings
) -> Iterator[Row]:
    """One backward pass per task-level serves both ranks, exact and over the first entries.

    The model is ours and its samples do not meet: attribution is tested, not checked each time.
    """
    named = {name: fingerprint(measure_settings(settings, name)) for name in wanted}
    for probe in samples:
        begin = time.perf_counter()
        exact, first = gradient_ranks(
            model,
            lambda model, tokens, start=probe.answer_start: answer_loss(model, tokens, start),
            probe.tokens,
            first=FIRST_ENTRIES,
            check=False,
        )
        seconds = (time.perf_counter() - begin) / (2 * len(wanted))
        ran_on = gradient_backend(probe.tokens)
        for name in wanted:
            field = "fisher" if name == "fisher_rank" else "covariance"
            for suffix, ranks in (("", exact), ("_first_50k", first)):
                value = getattr(ranks, field)
                yield _row(
                    probe, "", name + suffix, value, float("nan"), named[name], ran_on, seconds
                )


def _row(
    probe: Probe,
    layer: str,
    name: str,
    value: float,
    stderr: float,
    settings: str,
    backend: str,
    seconds: float,
) -> Row:
    return {
        "task": probe.level.task,
        "level": probe.level.level,
        "layer": layer,
        "measure": name,
        "value": value,
        "stderr": stderr,
        "n": probe.tokens.shape[0],
        "settings": settings,
        "data": probe.data,
        "backend": backend,
        "seconds": seconds,
    }
