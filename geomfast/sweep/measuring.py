"""All measures of one checkpoint: one forward pass, one batch of spectra, many records."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import torch

from geomfast.estimators.activations import Observation, observe
from geomfast.estimators.behaviour import mean_and_stderr
from geomfast.estimators.curvature.lanczos import one_start
from geomfast.estimators.gradients import backend as gradient_backend
from geomfast.estimators.gradients import gradient_ranks
from geomfast.estimators.spectra import backend, rankme
from geomfast.estimators.stopping import check_stop
from geomfast.estimators.values import gradient_values
from geomfast.files import fingerprint
from geomfast.sweep.hessian import HESSIAN_MEASURES, Eigenvectors, hessian_rows
from geomfast.sweep.linear_probes import probe_rows
from geomfast.sweep.llc import llc_rows
from geomfast.sweep.plan import BEHAVIOUR, FIRST_ENTRIES, Settings, measure_settings
from geomfast.sweep.rows import Probe, Row, layers, row

GRADIENT_MEASURES = {"fisher_rank", "gradient_covariance_rank"}
#: What one forward pass over all samples is made for.
_OBSERVED = {BEHAVIOUR, "rankme", "probe_accuracy"}


def measure(
    model: torch.nn.Module,
    samples: list[Probe],
    measures: set[str],
    settings: Settings,
    eigenvectors: Eigenvectors,
) -> list[Row]:
    """Take the named measures of a model; the caller adds what names the checkpoint.

    Every layer of every task-level goes through the spectra kernel as one batch.

    Args:
        model: the model as it is.
        samples: of every task-level.
        measures: names from :data:`geomfast.sweep.plan.MEASURES`, and behaviour.
        settings: the sweep's.
        eigenvectors: what an earlier checkpoint's Hessians had; gets this one's.

    Returns:
        One row per value, with task, level, layer, measure, value, stderr, n, settings, data,
        backend, device and seconds. The forward pass that several measures share counts as
        behaviour's, which every checkpoint has, so that another measure's seconds are what it
        adds; where behaviour is not among them, they share it in equal parts.
    """
    begin = time.perf_counter()
    observed = []
    if measures & _OBSERVED:
        observed = [
            observe(model, probe.tokens, probe.answer_start, position=settings.position)
            for probe in samples
        ]
    rows: list[Row] = []
    if BEHAVIOUR in measures:
        rows += _behaviour(samples, observed, settings)
    forward = time.perf_counter() - begin
    sharing = list(rows)
    if "rankme" in measures:
        rows += _rankme(samples, observed, settings)
    if "probe_accuracy" in measures:
        rows += probe_rows(samples, observed, settings)
    sharing = sharing or list(rows)
    for made in sharing:
        made["seconds"] += forward / len(sharing)
    if wanted := sorted(measures & GRADIENT_MEASURES):
        rows += _gradient_ranks(model, samples, wanted, settings)
    if wanted := sorted(measures & HESSIAN_MEASURES):
        with one_start():
            rows += hessian_rows(model, samples, wanted, settings, eigenvectors)
    if "llc" in measures:
        rows += llc_rows(model, samples, settings)
    for made in rows:
        made["device"] = str(samples[0].tokens.device)
    return rows


def _behaviour(
    samples: list[Probe], observed: list[Observation], settings: Settings
) -> Iterator[Row]:
    named = fingerprint(measure_settings(settings, BEHAVIOUR))
    for probe, seen in zip(samples, observed, strict=True):
        for name, values in (("accuracy", seen.exact), ("answer_logprob", seen.logprob)):
            value, stderr = mean_and_stderr(values)
            yield row(probe, "", name, value, stderr, named, "torch", 0.0)


def _rankme(samples: list[Probe], observed: list[Observation], settings: Settings) -> Iterator[Row]:
    begin = time.perf_counter()
    activations = torch.stack([seen.activations for seen in observed])  # (levels, layers, N, d)
    values = rankme(activations, center=settings.center, eps=settings.eps).tolist()
    ran_on = backend(activations)
    labels = layers(activations.shape[1])
    seconds = (time.perf_counter() - begin) / (len(samples) * len(labels))
    named = fingerprint(measure_settings(settings, "rankme"))
    for probe, per_layer in zip(samples, values, strict=True):
        for label, value in zip(labels, per_layer, strict=True):
            if math.isnan(value):  # from a backend that does not wait for the GPU to raise
                raise ValueError(f"activations of {probe.level.name} at {label} are not finite")
            yield row(probe, label, "rankme", value, float("nan"), named, ran_on, seconds)


def _gradient_ranks(
    model: torch.nn.Module, samples: list[Probe], wanted: list[str], settings: Settings
) -> Iterator[Row]:
    """One backward pass per task-level serves both ranks, exact and over the first entries.

    The model is ours and its samples do not meet: attribution is tested, not checked each time.
    """
    named = {name: fingerprint(measure_settings(settings, name)) for name in wanted}
    for probe in samples:
        check_stop()
        begin = time.perf_counter()
        exact, first = gradient_ranks(
            model,
            probe.loss,
            probe.tokens,
            first=FIRST_ENTRIES,
            check=False,
        )
        seconds = (time.perf_counter() - begin) / (2 * len(wanted))
        ran_on = gradient_backend(probe.tokens)
        for name in wanted:
            for label, value, stderr in gradient_values(name, exact, first):
                yield row(probe, "", label, value, stderr, named[name], ran_on, seconds)
