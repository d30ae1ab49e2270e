"""Linear probes: what a linear map can read of the answer from a layer, on inputs it never saw."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

from geomfast.estimators.arguments import check_number, check_seed, check_values, kind
from geomfast.estimators.stopping import check_stop
from geomfast.kernels.checks import all_finite, not_finite_error

#: Ridge penalties tried, in units of the mean squared length of the centred samples. More change
#: little: 11 decades instead of these five gain 0.1 to 0.8 points of accuracy, averaged over tasks
#: and layers of nano before and after training.
PENALTIES = (1.0, 1e-1, 1e-2, 1e-3, 1e-4)
FOLDS = 5
#: Below this penalty probes are fitted one by one: in the closed form the residuals of a probe that
#: fits all that it saw are of the order of the penalty, and those digits are lost to rounding.
_CLOSED_FORM = 1e-5


@dataclass(frozen=True)
class ProbeAccuracy:
    """How often held-out samples are classified right.

    Attributes:
        mean: (...) float64 in [0, 1]; NaN for one label only, or fewer than three groups.
        stderr: (...) standard error over groups, since samples of a group stand or fall together;
            the probes are taken as they are.
        majority: accuracy of always giving the most common label.
    """

    mean: Tensor
    stderr: Tensor
    majority: float


def probe_accuracy(
    x: Tensor,
    labels: Tensor,
    *,
    groups: Tensor | None = None,
    folds: int = FOLDS,
    penalties: Sequence[float] = PENALTIES,
    seed: int = 0,
) -> ProbeAccuracy:
    r"""Held-out accuracy of a linear classifier from each layer's activations to a label.

    Ridge regression to one-hot labels with a free intercept, the largest output wins (Alain and
    Bengio 2016, arXiv:1610.01644, for probes; arXiv:2602.15997 v4 for what is read here). Cross-
    validated by group: every sample is classified by a probe that saw no sample of its group, with
    the penalty that had the least squared error in cross-validation over the other folds.

    No probe is fitted twice, where penalties are 1e-5 or more: with K the centred Gram matrix and
    $R = \lambda (K + \lambda)^{-1} - 11^T/N$, the probe without a set S of samples leaves residuals
    $R_{SS}^{-1} (R Y)_S$ on it (An, Liu and Venkatesh 2007, "Fast cross-validation algorithms for
    least squares support vector machine and kernel ridge regression"). This is exact, and runs
    where x is. With smaller penalties every probe is fitted for itself, by singular values; those
    below rounding count as zero. The scale of x does not matter, from the smallest numbers of
    float64 to the largest.

    Held-out groups lower what is chance: where nothing can be read, the accuracy is at most about
    `majority`, and well below it where few groups share many samples, because what was left out is
    what the others have less of.

    Args:
        x: (..., N, d) activations, of several layers for instance; any floating-point type, any
            device. Not changed.
        labels: (N,) integers, the same for every layer.
        groups: (N,) integers: samples of one input, of which there may be several, share one.
            Without groups, a memory of inputs seen in training counts as reading the label. None
            for a group of its own for each sample.
        folds: number of folds of the outer cross-validation, and one more than of the inner; 3 or
            more, and fewer where there are fewer groups. Groups go in random order, but the largest
            first, each to the fold that has the fewest samples.
        penalties: ridge penalties to try, each positive, in units of the mean squared length of the
            centred samples.
        seed: seed of the random order of groups.

    Returns:
        `mean`, `stderr` and `majority`: see `ProbeAccuracy`.

    Raises:
        TypeError: x is not floating-point, labels or groups are not integers.
        ValueError: wrong shapes, N < 2, d < 1, NaN or infinity in x, folds < 3, no penalty, or one
            that is not positive and finite.

    Example:
        >>> x = torch.tensor([[0.0], [0.1], [0.2], [1.0], [1.1], [1.2]])
        >>> probe_accuracy(x, torch.tensor([0, 0, 0, 1, 1, 1]), folds=3).mean
        tensor(1., dtype=torch.float64)
    """
    x = _checked(x, folds, penalties)
    check_seed(seed)
    samples = x.shape[-2]
    labels = _integers("labels", labels, samples)
    each = (
        torch.arange(samples, device="cpu")
        if groups is None
        else _integers("groups", groups, samples)
    )
    classes, targets = labels.unique(return_inverse=True)
    majority = torch.bincount(targets).max().item() / samples
    _, group = each.unique(return_inverse=True)
    parts = [part.to(x.device) for part in _folds(group, folds, seed)]
    if len(classes) < 2 or len(parts) < 3:
        nothing = x.new_full(x.shape[:-2], math.nan, dtype=torch.float64)
        return ProbeAccuracy(nothing, nothing, majority)
    right = _held_out(_of_one_scale(x.double()), targets.to(x.device), parts, penalties)
    mean = right.mean(-1)
    # Of a ratio of sums over groups, whose sizes are given.
    deviations = (right - mean[..., None]) @ F.one_hot(group).to(right)
    stderr = deviations.square().sum(-1).sqrt() / samples
    return ProbeAccuracy(mean, stderr, majority)


def _held_out(
    x: Tensor, targets: Tensor, parts: list[Tensor], penalties: Sequence[float]
) -> Tensor:
    """(..., N) float64: 1 where the probe that saw nothing of a sample's fold is right."""
    folds, width = len(parts), max(map(len, parts))
    y = F.one_hot(targets).double()
    x = x - x.mean(-2, keepdim=True)
    gram = x @ x.mT
    scale = gram.diagonal(dim1=-2, dim2=-1).mean(-1)
    scale = torch.where(scale > 0, scale, 1.0)  # nothing to tell samples by: any penalty will do
    # What is left out together: two folds, to choose a penalty by, and then every fold alone.
    pairs = list(combinations(range(folds), 2))
    nothing = [torch.empty_like(parts[0][:0])] * folds
    first = [parts[i] for i, _ in pairs] + parts
    second = [parts[j] for _, j in pairs] + nothing
    sets = torch.cat([_padded(first, width), _padded(second, width)], 1)
    own = sets[len(pairs) :, :width]
    least = scale.new_full((*scale.shape, folds), math.inf)
    right = scale.new_zeros((*scale.shape, folds, width))
    for penalty in sorted(penalties, reverse=True):  # of equally good ones the strongest is kept
        check_stop()
        if penalty < _CLOSED_FORM:
            left = _fitted_residuals(x, penalty * scale, y, sets)
        else:
            left = _residuals(gram, penalty * scale, y, sets)
        squared = left.square().sum(-1)
        errors = torch.zeros_like(least)
        for k, (i, j) in enumerate(pairs):
            # How a probe that must not see fold i does on fold j, and one for j on i.
            errors[..., i] += squared[..., k, width:].sum(-1)
            errors[..., j] += squared[..., k, :width].sum(-1)
        predicted = y[own] - left[..., len(pairs) :, :width, :]
        hits = (predicted.argmax(-1) == targets[own]).double()
        right = torch.where((errors < least)[..., None], hits, right)
        least = torch.minimum(least, errors)
    found = right.new_empty(x.shape[:-1])
    found[..., own[own >= 0]] = right[..., own >= 0]
    return found


def _padded(parts: list[Tensor], width: int) -> Tensor:
    """(parts, width) numbers of samples, -1 where there is none."""
    return torch.stack([F.pad(part, (0, width - len(part)), value=-1) for part in parts])


def _residuals(gram: Tensor, penalty: Tensor, y: Tensor, sets: Tensor) -> Tensor:
    """What ridge regression leaves of samples that it did not see, for several sets of them.

    Args:
        gram: (..., N, N) centred.
        penalty: (...).
        y: (N, C).
        sets: (S, n) numbers of samples, -1 where there is none.

    Returns:
        (..., S, n, C), 0 where there is no sample.
    """
    samples = gram.shape[-1]
    penalty = penalty[..., None, None]
    regular = gram + penalty * torch.eye(samples, dtype=gram.dtype, device=gram.device)
    # The penalty makes it definite: asking whether it is would wait for the device.
    factor, _ = torch.linalg.cholesky_ex(regular)
    matrix = penalty * torch.cholesky_inverse(factor) - 1.0 / samples
    there = sets >= 0
    both = there[:, :, None] & there[:, None, :]
    identity = torch.eye(sets.shape[1], dtype=gram.dtype, device=gram.device)
    blocks = torch.where(both, matrix[..., sets[:, :, None], sets[:, None, :]], identity)
    seen = torch.where(there[..., None], (matrix @ y)[..., sets, :], 0.0)
    factor, _ = torch.linalg.cholesky_ex(blocks)
    return torch.cholesky_solve(seen, factor)


def _fitted_residuals(x: Tensor, penalty: Tensor, y: Tensor, sets: Tensor) -> Tensor:
    """As :func:`_residuals`, from a probe fitted for every set.

    Args:
        x: (..., N, d).
        penalty, y, sets: as there.
    """
    left = x.new_zeros((*x.shape[:-2], *sets.shape, y.shape[1]))
    for k, own in enumerate(sets):
        there = own >= 0
        out = own[there]
        seen = torch.ones(len(y), dtype=torch.bool, device=x.device)
        seen[out] = False
        inputs, outputs = x[..., seen, :], y[seen]
        middle, share = inputs.mean(-2, keepdim=True), outputs.mean(0)
        u, values, v = torch.linalg.svd(inputs - middle, full_matrices=False)
        rounding = torch.finfo(x.dtype).eps * max(inputs.shape[-2:])
        known = values > rounding * values[..., :1]
        factors = torch.where(known, values / (values.square() + penalty[..., None]), 0.0)
        weights = v.mT @ (factors[..., None] * (u.mT @ (outputs - share)))
        left[..., k, there, :] = y[out] - share - (x[..., out, :] - middle) @ weights
    return left


def _of_one_scale(x: Tensor) -> Tensor:
    """Every layer times a power of 2, which rounds nothing, so that its entries are below 1."""
    _, exponent = torch.frexp(x.abs().amax((-2, -1), keepdim=True))
    half = exponent.div(2, rounding_mode="floor")
    # In two steps: the whole factor need not be a number of the type.
    for part in (half, exponent - half):
        x = x * torch.pow(2.0, -part.to(x.dtype))
    return x


def _folds(groups: Tensor, folds: int, seed: int) -> list[Tensor]:
    """Numbers of the samples of every fold, ascending.

    Args:
        groups: (N,) 0 to G - 1.
        folds: at most.
        seed: of the order that groups of one size are shared out in.
    """
    sizes = torch.bincount(groups).tolist()
    loads = [0] * min(folds, len(sizes))
    fold_of = [0] * len(sizes)
    # Not as they come: labels that repeat every so many samples would fill a fold each.
    order = torch.randperm(
        len(sizes), generator=torch.Generator().manual_seed(seed), device="cpu"
    ).tolist()
    for group in sorted(order, key=lambda group: -sizes[group]):
        fold = loads.index(min(loads))
        fold_of[group] = fold
        loads[fold] += sizes[group]
    chosen = torch.tensor(fold_of, device="cpu")[groups]
    return [(chosen == fold).nonzero()[:, 0] for fold in range(len(loads))]


def _checked(x: Tensor, folds: int, penalties: Sequence[float]) -> Tensor:
    if not isinstance(x, Tensor) or not x.is_floating_point():
        found = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"x must be a floating-point tensor, not {found}")
    if x.dim() < 2 or x.shape[-2] < 2 or x.shape[-1] < 1:
        raise ValueError(f"x must have shape (..., N, d), N >= 2, d >= 1, not {tuple(x.shape)}")
    check_values("x", x)
    if not isinstance(folds, int) or isinstance(folds, bool):
        raise TypeError(f"folds must be a whole number, 3 or more, not {folds!r}")
    if folds < 3:
        raise ValueError(f"folds must be 3 or more, so that a penalty can be chosen, not {folds}")
    if isinstance(penalties, str) or not isinstance(penalties, Sequence):
        raise TypeError(f"penalties must be a sequence of numbers, not {kind(penalties)}")
    for penalty in penalties:
        check_number(penalties=penalty)
    if not len(penalties) or not all(0.0 < penalty < math.inf for penalty in penalties):
        raise ValueError(f"penalties must be positive and finite, not {tuple(penalties)}")
    x = x.detach()
    if not all_finite(x):
        raise not_finite_error(x)
    return x


def _integers(name: str, values: Tensor, samples: int) -> Tensor:
    if not isinstance(values, Tensor) or values.is_floating_point() or values.is_complex():
        found = values.dtype if isinstance(values, Tensor) else type(values).__name__
        raise TypeError(f"{name} must be a tensor of integers, not {found}")
    if values.shape != (samples,):
        raise ValueError(f"{name} must have shape ({samples},), not {tuple(values.shape)}")
    check_values(name, values)
    return values.detach().cpu()
