"""``gf.measure``: any measures of any model in one call."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from geomfast.estimators.arguments import check_model
from geomfast.estimators.batches import batches_of
from geomfast.estimators.checks import LossFunction
from geomfast.measures.catalog import measure_of, spec_of
from geomfast.measures.memory import logger
from geomfast.measures.model.measurement import Entry, Measurement
from geomfast.measures.model.measuring import (
    MeasuredValue,
    States,
    measure_model,
    named_measures,
)
from geomfast.measures.model.options import ModelSettings
from geomfast.measures.model.states import activations
from geomfast.measures.spec import OF_ACTIVATIONS


def measure(
    model: nn.Module,
    loss_fn: LossFunction | None = None,
    data: Any = None,
    measures: str | Iterable[str] = "cheap",
    *,
    samples: int | None = None,
    batch_size: int | None = None,
    params: str | Iterable[str] | None = None,
    position: str = "last",
    layers: Sequence[str] | None = None,
    states: States | None = None,
    check: bool = True,
    raise_failures: bool = False,
    **settings: Mapping[str, Any],
) -> Measurement:
    """Takes measures of a model as it is, and says of each value how far to believe it.

    Work that several measures share is done once: one forward pass for all that look at
    activations, one pass of attribution for all that look at per-sample gradients.

    Args:
        model: any module; it is measured in evaluation mode and left as it was.
        loss_fn: ``loss_fn(model, batch) -> (N,)``, one differentiable loss per sample; may be None
            where only activations are measured.
        data: one batch, or an iterable of batches.
        measures: names, see ``geomfast measures``; "cheap" for the usual ones that take a pass or
            two over the samples, "one-pass" for every measure that one forward and one backward
            pass give, "all" for all; these words may stand among names.
        samples: at most this many of the data, its first; None for all.
        batch_size: samples at once for activations and the Hessian; None for a batch as it comes.
            Halved, with a notice, where memory does not suffice.
        params: names of the parameters whose gradients, Hessian and llc are measured, with shell
            wildcards; those that begin with "!" are left out. None for all.
        position: where a sample's vector of activations is read: "last", "mean" or "flat".
        layers: names of the modules whose activations are measured, the last of them the final
            state; None for the blocks that are found.
        states: gives activations itself: label -> (N, d).
        check: see that no sample's gradient depends on the other samples.
        raise_failures: raise what a measure refuses; otherwise its value is NaN, its verdict why.
        settings: of single measures, by name: ``llc={"lr": 1e-5}``; the others keep their defaults.

    Returns:
        A :class:`~geomfast.measures.model.measurement.Measurement`.

    Raises:
        TypeError, ValueError: an argument that cannot be right, with its name; an unknown measure
            or setting, with those there are; every measure failed (what the first said).

    Example:
        >>> import torch
        >>> x, y = torch.randn(64, 8), torch.randint(3, (64,))
        >>> net = torch.nn.Linear(8, 3)
        >>> loss = torch.nn.CrossEntropyLoss(reduction="none")
        >>> found = measure(net, lambda m, b: loss(m(b[0]), b[1]), (x, y), "fisher_rank")
        >>> 1.0 <= found["fisher_rank"].value <= 64.0
        True
    """
    check_model(model)
    names = named_measures(measures)
    common = {"samples": samples, "batch_size": batch_size, "params": params}
    how = ModelSettings.asked(settings, **common, position=position, check=check)
    if unused := [name for name in settings if name not in names]:
        raise ValueError(f"settings of {unused[0]}, which is not among measures {names}")
    if loss_fn is None and (lossy := [n for n in names if spec_of(n).need not in OF_ACTIVATIONS]):
        if not isinstance(measures, str):
            raise ValueError(f"{lossy[0]} needs a loss_fn")
        names = [name for name in names if name not in lossy]
    batches = None if data is None else batches_of(data)

    def of_layers() -> Mapping[str, Any]:
        if batches is None:
            raise ValueError("rankme needs data, or states: a function that gives activations")
        named: dict[str, Any] = {}
        if layers is not None:
            named = {"layers": list(layers)[:-1], "final": list(layers)[-1]}
        return activations(
            model, batches, position=position, batch_size=batch_size, notice=notice, **named
        )

    notices: list[str] = []
    failures: list[Exception] = []

    def notice(said: str) -> None:
        if said not in notices:
            notices.append(said)
            logger.warning(said)

    found = measure_model(
        model,
        loss_fn,
        batches,
        names,
        how,
        states=states or of_layers,
        notice=notice,
        failed=None if raise_failures else lambda name, error: failures.append(error),
    )
    if failures and all(one.verdict.startswith("failed") for one in found):
        raise failures[0]
    return Measurement(tuple(map(_entry, found)), tuple(notices))


def _entry(found: MeasuredValue) -> Entry:
    name = measure_of(found.measure)
    assert name is not None
    spec = spec_of(name)
    verdict, meaning = found.verdict, ""
    # What stands beside a value, such as R-hat, only says how that was found.
    shown = found.measure == spec.name or spec.name not in [c.name for c in spec.columns]
    if shown:
        verdict = verdict or (
            spec.judged(found.value, found.stderr, found.n) if spec.judged else "ok"
        )
        if not verdict.startswith("failed") and not math.isnan(found.value):
            meaning = spec.meaning.format(value=found.value, stderr=found.stderr, n=found.n)
    return Entry(
        name,
        found.measure,
        found.layer,
        found.value,
        found.stderr,
        found.n,
        verdict if shown else "",
        meaning,
        spec.unit if shown else "",
        found.seconds,
        found.backend,
        found.settings,
    )
