"""Local learning coefficients of a checkpoint: of every task-level, and of the mixture."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch

from geomfast.estimators.sampling.calibrate import attempt, backend
from geomfast.estimators.values import llc_values
from geomfast.files import fingerprint
from geomfast.sweep.plan import Settings, llc_options, measure_settings
from geomfast.sweep.rows import Probe, Row, mixture, row


def llc_rows(model: torch.nn.Module, samples: list[Probe], settings: Settings) -> Iterator[Row]:
    """The coefficients, each with what says how far to believe it.

    Every checkpoint is sampled with the same noise, which makes them comparable. Where all chains
    diverge the coefficient is NaN, and ``llc_diverged`` says how many did.
    """
    options = llc_options(settings)
    named = fingerprint(measure_settings(settings, "llc"))
    for probe in (*samples, mixture(samples)):
        begin = time.perf_counter()
        found = attempt(model, probe.loss, probe.batch, **options)
        values = list(llc_values(found, settings.llc_chains))
        seconds = (time.perf_counter() - begin) / len(values)
        for name, value, stderr in values:
            yield row(probe, "", name, value, stderr, named, backend(model), seconds)
