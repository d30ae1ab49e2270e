"""Linear probes of a checkpoint: what every layer holds of the answers before they are given."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

from geomfast.estimators.activations import Observation
from geomfast.estimators.behaviour import mean_and_stderr
from geomfast.estimators.probes import probe_accuracy
from geomfast.files import fingerprint
from geomfast.sweep.plan import PROBE, Settings, measure_settings
from geomfast.sweep.rows import Probe, Row, layers, row


def probe_rows(
    samples: list[Probe], observed: list[Observation], settings: Settings
) -> Iterator[Row]:
    """Held-out accuracy of reading the first answer token at the position that predicts it.

    Samples of one input are left out together: MOD-1 has 49 inputs, and an untrained network
    tells them apart. Two more rows say what to compare with: ``probe_accuracy_majority``, of always
    giving the most common token, and ``probe_accuracy_model``, of the model itself at that token.

    Raises:
        ValueError: activations are not those of that position, or not finite.
    """
    if settings.position != "first_answer":
        raise ValueError(
            "probe_accuracy needs activations of the position before the answer, not "
            f"position = {settings.position!r}: they would hold the answer as input"
        )
    named = fingerprint(measure_settings(settings, "probe_accuracy"))
    for probe, seen in zip(samples, observed, strict=True):
        begin = time.perf_counter()
        answers = probe.tokens[:, probe.answer_start]
        found = probe_accuracy(seen.activations, answers, groups=probe.inputs, **PROBE)
        values = [
            (label, "probe_accuracy", mean, stderr)
            for label, mean, stderr in zip(
                layers(len(found.mean)), found.mean.tolist(), found.stderr.tolist(), strict=True
            )
        ]
        values.append(("", "probe_accuracy_majority", found.majority, math.nan))
        values.append(("", "probe_accuracy_model", *mean_and_stderr(seen.first)))
        seconds = (time.perf_counter() - begin) / len(values)
        for label, name, value, stderr in values:
            yield row(probe, label, name, value, stderr, named, "torch", seconds)
