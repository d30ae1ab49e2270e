"""Gram matrix of per-sample gradients, and the effective ranks of Fisher and gradient covariance.

One forward and one backward pass give, for every use of a parameter, the two factors whose product
is a sample's gradient; kernels turn them into inner products. N x P numbers are never stored.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from geomfast.estimators.arguments import check_flag, check_loss, check_model, check_whole
from geomfast.estimators.batches import count, index_batch, one_batch, warn_of_order
from geomfast.estimators.checks import LossFunction, require_finite
from geomfast.estimators.per_sample.attribution import attribute
from geomfast.estimators.stopping import check_stop
from geomfast.kernels import gradient_gram as kernel
from geomfast.kernels.spectra import exp_entropy, gram_eigenvalues

if TYPE_CHECKING:
    from geomfast.estimators.gradient_statistics import GradientStatistics

# With less than this share of the squared gradients, a centred Gram matrix made of differences of
# Gram entries has lost too many digits.
_MEAN_DOMINATES = 1e-2

# Below this sum of squares, float32 products of gradients lose digits. Steps of the exponent by
# which gradients are made larger or smaller, and how far.
_SMALLEST, _STRIDE, _LARGEST_EXPONENT = 1e-25, 40, 120


def gradient_gram(
    model: nn.Module,
    loss_fn: LossFunction,
    batch: Any,
    *,
    center: bool = False,
    params: Iterable[str] | int | None = None,
    per_layer: bool = False,
    check: bool = True,
    max_memory: int = kernel.CHUNK_BYTES,
) -> Any:
    r"""Gram matrix $K_{ij} = \langle g_i, g_j \rangle$ of the per-sample gradients g.

    Exact over all parameters chosen, by ghost products or materialised chunks, whichever is cheaper
    (Goodfellow 2015, arXiv:1510.01799, for squared norms; Li et al. 2022, arXiv:2110.05679, section
    4, for the inner products over positions).

    Args:
        model: any module. Its mode, gradients and parameters stay as they are.
        loss_fn: `loss_fn(model, batch) -> (N,)`, one differentiable loss per sample.
        batch: any nest of tensors with N >= 2 samples along their first dimension; a list of
            tensors is one batch. A DataLoader, or another iterable of batches: all its samples.
        center: subtract the mean gradient first: H K H with H = I - 11^T / N.
        params: names of parameters, with shell wildcards; those that begin with "!" are left out.
            Of single heads of attention as in `geomfast.llc`.
            A number n for the first n entries in the order of `model.named_parameters()` (the paper
            used 50,000); None for all that require gradients.
        per_layer: return a dictionary of parameter name -> Gram matrix instead of their sum.
        check: whether to test on some of the samples, 16 or a few more, that their losses and
            gradients do not depend on the others.
        max_memory: bytes that temporaries of the products may take.

    Returns:
        (N, N) float64 on the CPU or GPU of the losses, in squared units of the gradients; a
        dictionary of them for `per_layer`.

    Raises:
        TypeError: an argument of another kind, named; loss_fn does not return a floating-point
            tensor.
        ValueError: the loss is reduced; N < 2; parameters that no loss uses, or that are complex;
            losses that are random or depend on other samples (the module, or a sample, is named);
            gradients with NaN or infinity (sample and parameter are named).
    """
    check_model(model)
    check_loss(loss_fn)
    check_flag(center=center, per_layer=per_layer, check=check)
    check_whole(0, most=2**63 - 1, max_memory=max_memory)
    warn_of_order({"batch": batch})
    batch = one_batch(batch)

    def measure(centered: bool) -> dict[str, Tensor]:
        def gram(name: str, uses: list[kernel.Factors]) -> Tensor:
            return kernel.parameter_gram(uses, centered=centered, max_bytes=max_memory)

        def scaled(scale: float) -> dict[str, Tensor]:
            return attribute(model, loss_fn, batch, params, check, gram, scale)

        return finite_grams(in_range(scaled))

    grams = measure(False)
    if center:
        centred = {name: _centred(gram) for name, gram in grams.items()}
        if _mean_dominates(_sum(*grams.values()), _sum(*centred.values())):
            centred = measure(True)
        grams = centred
    return grams if per_layer else _sum(*grams.values())


def fisher_effective_rank(
    model: nn.Module,
    loss_fn: LossFunction,
    batch: Any,
    *,
    params: Iterable[str] | int | None = None,
) -> float:
    r"""Effective rank of the empirical Fisher matrix $F = \frac1N \sum_i g_i g_i^T$.

    exp of the entropy of its normalised eigenvalues (Roy and Vetterli 2007, definition 1, on
    eigenvalues), which are those of the Gram matrix K / N. With labels drawn from the model in
    `batch` (`geomfast.losses.sample_labels`), it is the rank of the true Fisher matrix.

    Args:
        model, loss_fn, batch, params: as in `gradient_gram`.

    Returns:
        Between 1 and N; 0.0 if all gradients are zero.
    """
    return _rank(gradient_gram(model, loss_fn, one_batch(batch), params=params))


def gradient_covariance_rank(
    model: nn.Module,
    loss_fn: LossFunction,
    batch: Any,
    *,
    params: Iterable[str] | int | None = None,
) -> float:
    """Effective rank of the covariance of per-sample gradients: the Fisher rank without their mean.

    Args:
        model, loss_fn, batch, params: as in `gradient_gram`.

    Returns:
        Between 1 and N - 1; 0.0 if all gradients agree.
    """
    return _rank(gradient_gram(model, loss_fn, one_batch(batch), params=params, center=True))


@dataclass(frozen=True)
class GradientRanks:
    """Effective ranks of the gradients of one batch.

    Attributes:
        fisher: of the empirical Fisher matrix.
        covariance: of the gradient covariance.
        gram: (N, N) float64 inner products of the gradients, not centered.
        answers: (N,) class of every sample; None where there is none.
    """

    fisher: float
    covariance: float
    gram: Tensor = field(compare=False, repr=False)
    answers: Tensor | None = field(default=None, compare=False, repr=False)

    @cached_property
    def statistics(self) -> GradientStatistics:
        """Noise, alignment and norms."""
        from geomfast.estimators.gradient_statistics import statistics_of

        return statistics_of(self.gram)


def gradient_ranks(
    model: nn.Module,
    loss_fn: LossFunction,
    batch: Any,
    *,
    first: int,
    check: bool = True,
    at_once: int | None = None,
) -> tuple[GradientRanks, GradientRanks]:
    """Both ranks over all parameters and over the first entries only, from one backward pass.

    Args:
        model, loss_fn, batch, check: as in `gradient_gram`.
        first: number of parameter entries of the second pair, in the order of
            `model.named_parameters()`; the paper (arXiv:2602.15997) used 50,000.
        at_once: samples that go through the model together, for less memory; None for all. The
            Gram matrix is then made of blocks, one pass for every pair of parts of at_once / 2
            samples: exact too, but the mean gradient can only be taken out by differences of its
            entries, which loses digits where it makes up nearly all of the gradients.

    Returns:
        Ranks over all parameters, ranks over the first entries.

    Raises:
        As `gradient_gram`; ValueError for at_once < 2.
    """
    left = dict(_counted(model, first))
    batch = one_batch(batch)

    def measure(batch: Any, centered: bool, check: bool) -> tuple[Tensor, Tensor]:
        def both(name: str, uses: list[kernel.Factors]) -> tuple[Tensor, Tensor | None]:
            return _whole_and_first(uses, left.get(name, 0), centered)

        def scaled(scale: float) -> dict[str, Tensor]:
            grams = attribute(model, loss_fn, batch, None, check, both, scale)
            found = {name: whole for name, (whole, _) in grams.items()}
            # Of the first entries under a name that no parameter can have.
            return found | {"": _sum(*(some for _, some in grams.values()))}

        every = finite_grams(in_range(scaled))
        some = every.pop("")
        return _sum(*every.values()), some

    samples = count(batch)
    at_once = samples if at_once is None else at_once
    whole = at_once >= samples
    if whole:
        sums = measure(batch, False, check)
    else:
        sums = _in_blocks(batch, at_once, lambda part: measure(part, False, check))
    centred = [_centred(total) for total in sums]
    dominated = [_mean_dominates(*pair) for pair in zip(sums, centred, strict=True)]
    if whole and any(dominated):
        again = measure(batch, True, check)
        centred = [again[i] if dominated[i] else centred[i] for i in range(2)]
    every, beginning = (
        GradientRanks(_rank(total), _rank(less_mean), total)
        for total, less_mean in zip(sums, centred, strict=True)
    )
    return every, beginning


def _in_blocks(
    batch: Any, at_once: int, measure: Callable[[Any], tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """Gram matrices of a batch, of which `measure` never sees more than `at_once` samples.

    Every pair of samples meets in some pair of parts; where it meets more than once, the last
    value stays, which differs from the others by rounding.
    """
    if at_once < 2:
        raise ValueError(f"at_once must be 2 or more samples, not {at_once}")
    samples = count(batch)
    grams: tuple[Tensor, Tensor] | None = None
    for pair in itertools.combinations(torch.arange(samples, device="cpu").split(at_once // 2), 2):
        check_stop()
        which = torch.cat(pair)
        found = measure(index_batch(batch, which))
        if grams is None:
            every, some = (gram.new_empty(samples, samples) for gram in found)
            grams = every, some
        at = which.to(found[0].device)
        for gram, block in zip(grams, found, strict=True):
            gram[at[:, None], at] = block
    assert grams is not None  # at_once < samples: there are two parts at least
    return grams


def _whole_and_first(
    uses: list[kernel.Factors], entries: int, centered: bool
) -> tuple[Tensor, Tensor | None]:
    """Gram matrix of a parameter's gradients, and of their first entries (None for 0 of them)."""
    columns = uses[0].right.shape[-1]
    if entries == 0:
        return kernel.parameter_gram(uses, centered=centered), None
    if entries == uses[0].rows * columns:
        whole = kernel.parameter_gram(uses, centered=centered)
        return whole, whole
    row, rest = divmod(entries, columns)
    parts = kernel.split_rows(uses, row)
    if parts is None:
        some = kernel.first_entries(uses, entries)
        return (
            kernel.parameter_gram(uses, centered=centered),
            kernel.parameter_gram(some, centered=centered),
        )
    # The rows before the cut count for both.
    before, at, behind = (
        kernel.parameter_gram(part, centered=centered) if part else None for part in parts
    )
    some = None
    if rest:
        some = kernel.parameter_gram(kernel.first_entries(parts[1], rest), centered=centered)
    return _sum(before, at, behind), _sum(before, some)


def _counted(model: nn.Module, first: int) -> Iterable[tuple[str, int]]:
    """Names of the parameters that hold the first entries, and how many of theirs count."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and first > 0:
            yield name, min(first, parameter.numel())
            first -= parameter.numel()


def _rank(gram: Tensor) -> float:
    return exp_entropy(gram_eigenvalues(gram).clamp_min(0.0), 0.0).item()


def _sum(*grams: Tensor | None) -> Tensor:
    """Of those that are there."""
    return torch.stack([gram for gram in grams if gram is not None]).sum(0)


def in_range(compute: Callable[[float], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Gram matrices, or squared norms, of gradients of any size, whose products kernels form in
    their own type.

    Squares of gradients below 1e-19 are nothing in float32, those above 1e19 too large: gradients
    are then multiplied by a power of two, which changes no digit, and all is computed again.

    Args:
        compute: of gradients that have been multiplied by a number.
    """
    exponent = direction = 0
    grams: dict[str, Tensor] = {}
    while True:
        check_stop()
        before, grams = grams, compute(2.0**exponent)
        size = sum(float(_squares(gram).sum()) for gram in grams.values())
        if direction > 0 and not math.isfinite(size):
            # Larger factors overflow though their products are small, or 0: behind dead units, say.
            return {name: gram * 4.0 ** (direction - exponent) for name, gram in before.items()}
        turn = _STRIDE if size < _SMALLEST else 0 if math.isfinite(size) else -_STRIDE
        if turn == 0 or turn == -direction or abs(exponent + turn) > _LARGEST_EXPONENT:
            return {name: gram * 4.0**-exponent for name, gram in grams.items()}
        direction = turn
        exponent += turn


def finite_grams(grams: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gram matrices, or squared norms, by parameter, that are finite."""
    for name, gram in grams.items():
        require_finite(_squares(gram), name)
    return grams


def _squares(gram: Tensor) -> Tensor:
    """(N,) the diagonal of a Gram matrix; squared norms as they are."""
    return gram.diagonal() if gram.dim() == 2 else gram


def _centred(gram: Tensor) -> Tensor:
    """Gram matrix of the gradients less their mean, by differences of its entries."""
    gram = gram - gram.mean(0, keepdim=True)
    return gram - gram.mean(1, keepdim=True)


def _mean_dominates(gram: Tensor, centred: Tensor) -> bool:
    """Whether these differences have lost their digits: the mean has to go first, then."""
    return bool(centred.trace() < _MEAN_DOMINATES * gram.trace())


def backend(x: Tensor) -> str:
    """Name of the kernel backend for gradients on x's device; records store it."""
    return kernel.OP.backend_for(x)
