"""Neural collapse: how near each class's activations are to their mean, and means to a simplex."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from geomfast.estimators.arguments import kind
from geomfast.estimators.spectra import check_samples
from geomfast.kernels.checks import all_finite, not_finite_error

#: Singular values of the class means below this share of the largest are rounding.
_RESOLUTION = 1e-6


class NeuralCollapse(NamedTuple):
    """Measures of neural collapse, each (...) float64 and zero for a collapsed representation.

    Attributes:
        within: NC1, variability within classes over that between them, tr(S_W S_B^+) / C.
        norms: NC2, coefficient of variation of the norms of centered class means.
        angles: NC2, mean distance of their cosines from those of a simplex, -1 / (C - 1).
        classifier: NC3, squared distance between the classifier's rows and the class means, both
            centered and of unit norm, 0 to 4; NaN without a classifier.
        classes: C, those with two samples or more.
        samples: of these classes.
    """

    within: Tensor
    norms: Tensor
    angles: Tensor
    classifier: Tensor
    classes: int
    samples: int


def neural_collapse(
    x: Tensor, labels: Tensor, *, classifier: Tensor | None = None
) -> NeuralCollapse:
    r"""Neural collapse NC1 to NC3 (Papyan, Han and Donoho 2020, arXiv:2008.08186, section 2).

    The global mean is that of the class means, so that unequal classes count alike. Classes with
    one sample say nothing of their variability and are left out. The classifier's rows are
    centered over the classes, as their mean changes no prediction.

    Args:
        x: (..., N, d) activations, floating-point.
        labels: (N,) class of every sample, integers.
        classifier: (K, d) weights, row k of class k, that every label is a row of; None for none.
            For x of several layers, those of the last one.

    Returns:
        Each measure of every matrix; NaN where class means do not differ.

    Raises:
        TypeError: x or classifier is not a floating-point tensor; labels are not integers.
        ValueError: wrong shapes, NaN or infinity, fewer than 2 classes with 2 samples or more, a
            label without a row in the classifier.

    Example:
        >>> x = torch.eye(3).repeat(2, 1)
        >>> found = neural_collapse(x, torch.tensor([0, 1, 2, 0, 1, 2]))
        >>> round(float(found.within + found.norms + found.angles), 6)
        0.0
    """
    check_samples(x)
    _check_labels(labels, x)
    if not all_finite(x):
        raise not_finite_error(x)
    labels = labels.detach().to(x.device).long()  # others index as a mask, or not at all
    names, own, counts = labels.unique(return_inverse=True, return_counts=True)
    several = counts >= 2
    classes = int(several.sum())
    if classes < 2:
        raise ValueError(
            f"labels: {classes} class{'' if classes == 1 else 'es'} with 2 samples or more; "
            "2 of them are needed"
        )
    x = x.detach()[..., several[own], :].double()
    own = (several.cumsum(0) - 1)[own[several[own]]]
    names, counts = names[several], counts[several]
    scale = x.abs().amax((-2, -1), keepdim=True)
    x = x / torch.where(scale > 0, scale, 1.0)
    size = x.square().sum((-2, -1))
    member = torch.nn.functional.one_hot(own, classes).to(x.dtype)
    means = (member / counts).mT @ x
    spread = x - means[..., own, :]
    centered = means - means.mean(-2, keepdim=True)
    # What rounding leaves between means that are all alike has no direction.
    apart = centered.square().sum((-2, -1)) > 1e-13 * size / x.shape[-2] * classes
    _, values, directions = torch.linalg.svd(centered, full_matrices=False)
    kept = (values > _RESOLUTION * values[..., :1]) & (
        torch.arange(values.shape[-1], device=x.device) < classes - 1
    )
    # S_B = centered^T centered / C, so its inverse square root divides by values / sqrt(C).
    along = spread @ directions.mT / torch.where(kept, values, torch.inf)[..., None, :]
    within = along.square().sum((-2, -1)) / x.shape[-2]
    norms = centered.square().sum(-1).sqrt()
    units = centered / norms[..., None]
    cosines = units @ units.mT
    away = (cosines + 1.0 / (classes - 1)).abs()
    angles = (away.sum((-2, -1)) - away.diagonal(dim1=-2, dim2=-1).sum(-1)) / (
        classes * (classes - 1)
    )
    variation = norms.std(-1, correction=0) / norms.mean(-1)
    distance = torch.full_like(within, torch.nan)
    if classifier is not None:
        distance = _distance(centered, _rows(classifier, names, x))
    nc1, spread_of_norms, off_simplex, nc3 = (
        torch.where(apart, found, torch.nan) for found in (within, variation, angles, distance)
    )
    return NeuralCollapse(nc1, spread_of_norms, off_simplex, nc3, classes, x.shape[-2])


def _distance(means: Tensor, rows: Tensor) -> Tensor:
    rows = rows - rows.mean(0)
    means = means / torch.linalg.matrix_norm(means, keepdim=True)
    return (means - rows / torch.linalg.matrix_norm(rows)).square().sum((-2, -1))


def _check_labels(labels: Tensor, x: Tensor) -> None:
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.is_complex():
        said = labels.dtype if isinstance(labels, Tensor) else kind(labels)
        raise TypeError(f"labels must be a tensor of integers, not {said}")
    if labels.shape != x.shape[-2:-1]:
        raise ValueError(
            f"labels must have shape ({x.shape[-2]},), one for each sample of x, not "
            f"{tuple(labels.shape)}"
        )


def _rows(classifier: Tensor, names: Tensor, x: Tensor) -> Tensor:
    """The classifier's rows (C, d) of these classes.

    Raises:
        TypeError, ValueError: as :func:`neural_collapse`.
    """
    if not isinstance(classifier, Tensor) or not classifier.is_floating_point():
        said = classifier.dtype if isinstance(classifier, Tensor) else kind(classifier)
        raise TypeError(f"classifier must be a floating-point tensor, not {said}")
    if classifier.dim() != 2 or classifier.shape[1] != x.shape[-1]:
        raise ValueError(
            f"classifier must have shape (K, {x.shape[-1]}), not {tuple(classifier.shape)}"
        )
    low, high = int(names.min()), int(names.max())
    if low < 0 or high >= len(classifier):
        wrong = low if low < 0 else high
        raise ValueError(f"labels: {wrong} has no row in a classifier of {len(classifier)} rows")
    rows = classifier.detach().to(x)[names]
    if not all_finite(rows):
        raise not_finite_error(classifier, "classifier")
    scale = rows.abs().amax()
    return rows / torch.where(scale > 0, scale, 1.0)
