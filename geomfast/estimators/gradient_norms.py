"""Norms of per-sample gradients."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from geomfast.estimators.arguments import check_flag, check_loss, check_model
from geomfast.estimators.batches import batches_of, count, index_batch, warn_of_order
from geomfast.estimators.checks import LossFunction
from geomfast.estimators.gradients import finite_grams, in_range
from geomfast.estimators.per_sample.attribution import attribute
from geomfast.kernels import gradient_gram as kernel


def gradient_norms(
    model: nn.Module,
    loss_fn: LossFunction,
    batch: Any,
    *,
    params: Iterable[str] | int | None = None,
    per_layer: bool = False,
    check: bool = True,
) -> Any:
    r"""Norm $\|g_i\|$ of the gradient of every sample's loss.

    From one forward and one backward pass, whose factors give squared norms without the gradients
    (Goodfellow 2015, arXiv:1510.01799; over positions Li et al. 2022, arXiv:2110.05679, section 4).
    N x P numbers are never stored.

    Args:
        model: any module. Its mode, gradients and parameters stay as they are.
        loss_fn: `loss_fn(model, batch) -> (N,)`, one differentiable loss per sample.
        batch: any nest of tensors with N samples along their first dimension; a list of tensors is
            one batch. Of a DataLoader, or another iterable of batches, one batch after the other.
        params: names of parameters, with shell wildcards; those that begin with "!" are left out.
            A number n for the first n entries in the order of `model.named_parameters()`; None for
            all that require gradients.
        per_layer: return a dictionary of parameter name -> norms of that parameter's gradients
            instead. Their squares add up to those of the whole gradients.
        check: whether to test on some of the samples that their losses and gradients do not depend
            on the others.

    Returns:
        (N,) float64 on the losses' device, in the loss's unit per unit of the parameters, samples
        in the order of the data; a dictionary of them for `per_layer`.

    Raises:
        TypeError, ValueError: as `gradient_gram`, but for N = 1, which is allowed.

    Examples:
        >>> import geomfast as gf
        >>> net, x = torch.nn.Linear(2, 1, bias=False), torch.tensor([[3.0, 4.0], [0.0, 2.0]])
        >>> gf.gradient_norms(net, lambda m, b: m(b)[:, 0], x)  # of w . x: |x|
        tensor([5., 2.], dtype=torch.float64)
    """
    check_model(model)
    check_loss(loss_fn)
    check_flag(per_layer=per_layer, check=check)
    warn_of_order({"batch": batch})
    if isinstance(params, Iterator):
        params = list(params)  # read once for every batch
    parts = [_squares(model, loss_fn, one, params, check) for one in batches_of(batch)]
    squares = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    if per_layer:
        return {name: x.sqrt() for name, x in squares.items()}
    return torch.stack(list(squares.values())).sum(0).sqrt()


def _squares(
    model: nn.Module,
    loss_fn: LossFunction,
    batch: Any,
    params: Iterable[str] | int | None,
    check: bool,
) -> dict[str, Tensor]:
    samples = count(batch, least=1)
    if samples == 1:  # beside itself: a model may take a first dimension of 1 for none
        batch = index_batch(batch, torch.zeros(2, dtype=torch.long, device="cpu"))

    def norms(name: str, uses: list[kernel.Factors]) -> Tensor:
        return kernel.squared_norms(uses, kernel.CHUNK_BYTES)

    def scaled(scale: float) -> dict[str, Tensor]:
        return attribute(model, loss_fn, batch, params, check, norms, scale)

    return {name: x[:samples] for name, x in finite_grams(in_range(scaled)).items()}
