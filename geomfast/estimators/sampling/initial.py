"""What losses are at the model's own weights, where every chain begins."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from geomfast.estimators.batches import count, parts
from geomfast.estimators.checks import (
    FEW,
    NO_PARAMETER,
    LossFunction,
    checked_losses,
    unused_error,
)
from geomfast.estimators.graph import uses_in_graph
from geomfast.estimators.sampling.chains import Sampling
from geomfast.estimators.stopping import check_stop


def initial_losses(
    model: nn.Module, loss_fn: LossFunction, batches: list[Any], at_once: int | None
) -> Tensor:
    """(n,) float64: the loss of every sample at the model's own weights, so many at once.

    Raises:
        ValueError: a loss is not finite.
    """
    found = []
    with torch.no_grad():
        for number, first, part in all_parts(batches, at_once):
            losses = checked_losses(loss_fn(model, part), count(part, least=1), False)
            bad = ~torch.isfinite(losses)
            if bad.any():
                raise ValueError(
                    f"the loss of sample {first + int(bad.nonzero()[0])} of batch {number} is not "
                    "finite at the model's own weights"
                )
            found.append(losses.double())
    return torch.cat(found)


def require_used(sampling: Sampling) -> None:
    """Raises ValueError where a parameter reaches no loss; some samples may do without it."""
    unused = set(sampling.parameters)
    at_once = min(FEW, sampling.at_once or sampling.batch_size or FEW)
    for _, _, part in all_parts(sampling.batches, at_once):
        with torch.enable_grad():
            total = sampling.loss_fn(sampling.model, part)
        if not total.requires_grad:
            continue
        uses = uses_in_graph(total, dict(sampling.parameters))
        unused -= {name for name, number in uses.items() if number}
        if not unused:
            return
    if len(unused) == len(sampling.parameters):
        raise ValueError(NO_PARAMETER)
    raise unused_error(name for name in sampling.parameters if name in unused)


def require_finite_gradients(sampling: Sampling) -> None:
    """Raises ValueError where chains had nowhere to go from the model's own weights."""
    leaves = list(sampling.parameters.values())
    at_once = sampling.at_once or sampling.batch_size
    for number, first, part in all_parts(sampling.batches, at_once):
        with torch.enable_grad():
            total = sampling.loss_fn(sampling.model, part).sum()
        for name, gradient in zip(
            sampling.parameters,
            torch.autograd.grad(total, leaves, allow_unused=True),
            strict=True,
        ):
            if gradient is not None and not torch.isfinite(gradient).all():
                last = first + count(part, least=1) - 1
                raise ValueError(
                    f"the gradient of samples {first} to {last} of batch {number} is not finite "
                    f"in parameter {name} at the model's own weights"
                )


def all_parts(batches: list[Any], at_once: int | None) -> Iterator[tuple[int, int, Any]]:
    """All of the data, so many at once: number of their batch, of the first sample, themselves."""
    for number, batch in enumerate(batches):
        for first, part in parts(batch, at_once):
            check_stop()
            yield number, first, part
