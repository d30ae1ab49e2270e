"""Statistics of per-sample gradients that their Gram matrix holds: noise, alignment, norms."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from geomfast.estimators.arguments import check_flag, kind
from geomfast.estimators.batches import in_drawn_order, one_batch
from geomfast.estimators.checks import LossFunction
from geomfast.estimators.gradients import gradient_gram
from geomfast.estimators.similarity import mean_of_pairs


@dataclass(frozen=True)
class GradientStatistics:
    """Statistics of the gradients of N samples.

    Attributes:
        noise_scale: tr(S) / |G|^2, in samples: the batch size at which a step's noise is as large
            as its gradient (McCandlish et al. 2018, arXiv:1812.06162, equation 2.9). NaN where
            the mean gradient cannot be told from noise.
        noise_scale_stderr: by leaving out one sample at a time.
        alignment: mean cosine between the gradients of different samples, -1 / (N - 1) to 1; NaN
            where a sample has no gradient.
        alignment_stderr: likewise.
        norm: of the mean gradient, in units of the loss over those of parameters.
        sample_norm: mean norm of the gradients of single samples.
        spread: standard deviation of these norms.
        samples: N.
    """

    noise_scale: float
    noise_scale_stderr: float
    alignment: float
    alignment_stderr: float
    norm: float
    sample_norm: float
    spread: float
    samples: int


@dataclass(frozen=True)
class Stiffness:
    """Cosines between gradients, by class.

    Attributes:
        classes: labels, ascending.
        matrix: (C, C) mean cosine between different samples of two classes; NaN on the diagonal
            for a class of one sample, and for classes in which a sample has no gradient.
        within: mean cosine between different samples of one class; NaN where no class has two, or
            a sample has no gradient.
        between: the same for samples of different classes; NaN for a single class.
    """

    classes: tuple[int, ...]
    matrix: Tensor
    within: float
    between: float


def gradient_statistics(
    model: nn.Module,
    loss_fn: LossFunction,
    batch: Any,
    *,
    params: Iterable[str] | int | None = None,
    per_layer: bool = False,
) -> Any:
    """Noise scale, alignment and norms of per-sample gradients, from one backward pass.

    Args:
        model, loss_fn, batch, params: as in :func:`geomfast.gradient_gram`.
        per_layer: of every parameter's gradients alone, by its name.

    Returns:
        :class:`GradientStatistics`, or a dictionary of them for `per_layer`.

    Raises:
        As :func:`geomfast.gradient_gram`.

    Example:
        >>> model = nn.Linear(3, 1)
        >>> loss_fn = lambda model, x: model(x).squeeze(-1)
        >>> found = gradient_statistics(model, loss_fn, torch.ones(4, 3))
        >>> round(found.alignment, 6), round(found.noise_scale, 6)
        (1.0, 0.0)
    """
    check_flag(per_layer=per_layer)
    # No statistic depends on the order of the samples, of which a loader's would be warned.
    gram = gradient_gram(model, loss_fn, one_batch(batch), params=params, per_layer=per_layer)
    if per_layer:
        return {name: statistics_of(one) for name, one in gram.items()}
    return statistics_of(gram)


def gradient_stiffness(
    model: nn.Module,
    loss_fn: LossFunction,
    batch: Any,
    labels: Tensor,
    *,
    params: Iterable[str] | int | None = None,
) -> Stiffness:
    r"""Stiffness: how far a step for samples of one class helps those of another.

    Mean cosine between gradients of different samples, by class (Fort et al. 2019,
    arXiv:1901.09491, equation 5).

    Args:
        model, loss_fn, batch, params: as in :func:`geomfast.gradient_gram`.
        labels: (N,) class of every sample, integers; task-levels, say.

    Returns:
        The cosines.

    Raises:
        As :func:`geomfast.gradient_gram`; TypeError: labels are not integers; ValueError: another
        number of them; a DataLoader that shuffles.
    """
    if in_drawn_order(batch):
        raise ValueError(
            "batch is a DataLoader that shuffles, so that labels are not in the order of its "
            "samples: give it shuffle=False"
        )
    return stiffness_of(gradient_gram(model, loss_fn, batch, params=params), labels)


def statistics_of(gram: Tensor) -> GradientStatistics:
    """Statistics of gradients with this Gram matrix (N, N), float64, not centered, N >= 2."""
    n = len(gram)
    squares = gram.diagonal().clamp_min(0.0)
    rows = gram.sum(1)
    every, own = rows.sum(), squares.sum()
    inverse = float(_inverse_noise(every, own, n))
    noise, stderr = 1.0 / inverse if inverse > 0 else math.nan, math.nan
    if n > 2 and inverse > 0 and math.isfinite(noise):
        # Of the inverse, which is finite whichever sample is left out.
        left = _inverse_noise(every - 2.0 * rows + squares, own - squares, n - 1)
        around = (left - left.mean()).square().sum()
        stderr = float(((n - 1) / n * around).sqrt()) * noise**2
    norms = squares.sqrt()
    cosines = _cosines(gram)
    alignment = mean_of_pairs(cosines.sum(1) - cosines.diagonal())
    return GradientStatistics(
        noise,
        stderr,
        float(alignment.mean),
        float(alignment.stderr),
        math.sqrt(max(float(every), 0.0)) / n,
        float(norms.mean()),
        float(norms.std()),
        n,
    )


def stiffness_of(gram: Tensor, labels: Tensor) -> Stiffness:
    """Stiffness of gradients with this Gram matrix (N, N), not centered; labels (N,).

    Raises:
        TypeError: labels are not integers.
        ValueError: another number of them.
    """
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.is_complex():
        said = labels.dtype if isinstance(labels, Tensor) else kind(labels)
        raise TypeError(f"labels must be a tensor of integers, not {said}")
    if labels.shape != gram.shape[:1]:
        raise ValueError(
            f"labels must have shape ({len(gram)},), one for each sample, not {tuple(labels.shape)}"
        )
    names, own = labels.to(gram.device).long().unique(return_inverse=True)
    member = torch.nn.functional.one_hot(own, len(names)).to(gram.dtype)
    cosines = _cosines(gram)
    # In a product a NaN would be every class's: 0 times it is one.
    directed = gram.diagonal() > 0
    pairs_of = (cosines - cosines.diagonal().diag()).where(directed & directed[:, None], 0.0)
    sums = member.mT @ pairs_of @ member
    known = member[~directed].sum(0) == 0
    sums = sums.where(known & known[:, None], torch.nan)
    counts = member.sum(0)
    pairs = counts[:, None] * counts - counts.diag()
    same = torch.eye(len(names), dtype=torch.bool, device=gram.device)
    return Stiffness(
        tuple(names.tolist()),
        sums / pairs,  # 0 / 0 where there is no pair
        float(sums[same].sum() / pairs[same].sum()),
        float(sums[~same].sum() / pairs[~same].sum()),
    )


def _inverse_noise(every: Tensor, own: Tensor, n: int) -> Tensor:
    """|G|^2 / tr(S), both unbiased, of gradients whose Gram matrix sums to these."""
    variance = (own - every / n) / (n - 1)
    squared = every / n**2 - variance / n
    return squared / variance.clamp_min(0.0)


def _cosines(gram: Tensor) -> Tensor:
    """NaN in the rows and columns of samples that have no gradient."""
    norms = gram.diagonal().clamp_min(0.0).sqrt()
    return gram / norms[:, None] / norms
