"""Gram matrix of per-sample gradients, and the effective ranks of Fisher and gradient covariance.

One forward and one backward pass give, for every use of a parameter, the two factors whose product
is a sample's gradient; kernels turn them into inner products. N x P numbers are never stored.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from geomfast.kernels import gradient_gram as kernel
from geomfast.kernels.gradient_gram import Factors
from geomfast.kernels.spectra import exp_entropy
from geomfast.measures.rules import whole
from geomfast.measures.uses import Watch

LossFunction = Callable[[nn.Module, Any], Tensor]

# Rounding in a float32 forward and backward pass stays well below this share of the root of a
# parameter's squared gradients; one attributed to the wrong sample is of the order of all of it.
_PROBE_TOLERANCE = 1e-3

# With less than this share of the squared gradients, a centred Gram matrix made of differences of
# Gram entries has lost too many digits.
_MEAN_DOMINATES = 1e-2


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
        batch: any nest of tensors with N >= 2 samples along their first dimension.
        center: subtract the mean gradient first: H K H with H = I - 11^T / N.
        params: names of parameters, with shell wildcards; a number n for the first n entries in the
            order of `model.named_parameters()` (the paper used 50,000); None for all that require
            gradients.
        per_layer: return a dictionary of parameter name -> Gram matrix instead of their sum.
        check: compare with the gradient of a random combination of the losses, which takes one
            more forward and backward pass and finds gradients attributed to the wrong sample.
        max_memory: bytes for temporaries of the products.

    Returns:
        (N, N) float64 on the CPU or GPU of the losses, in squared units of the gradients; a
        dictionary of them for `per_layer`.

    Raises:
        TypeError: loss_fn does not return a floating-point tensor.
        ValueError: the loss is reduced; N < 2; a parameter that does not reach the loss; dropout or
            batch normalisation in training mode; a loss that depends on other samples; gradients
            with NaN or infinity (sample and parameter are named).
    """
    _refuse_coupled(model)
    with torch.enable_grad():
        try:
            tools = _Tools(model, loss_fn, batch, *_chosen(model, params), may_expand=True)
            factors, grams = _measured(tools, check, max_memory)
        except _ExpandedInVain:
            tools = _Tools(model, loss_fn, batch, *_chosen(model, params), may_expand=False)
            factors, grams = _measured(tools, check, max_memory)
    if center:
        centred = {name: _centred(gram) for name, gram in grams.items()}
        whole_trace = sum(float(gram.trace()) for gram in grams.values())
        if sum(float(gram.trace()) for gram in centred.values()) < _MEAN_DOMINATES * whole_trace:
            # The mean first, then the products: their difference would keep few digits.
            centred = {
                name: kernel.parameter_gram(uses, centered=True, max_bytes=max_memory)
                for name, uses in factors.items()
            }
        grams = centred
    return grams if per_layer else torch.stack(list(grams.values())).sum(0)


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
    `batch`, it is the rank of the true Fisher matrix.

    Args:
        model, loss_fn, batch, params: as in `gradient_gram`.

    Returns:
        Between 1 and N; 0.0 if all gradients are zero.
    """
    return _rank(gradient_gram(model, loss_fn, batch, params=params))


def gradient_covariance_rank(
    model: nn.Module,
    loss_fn: LossFunction,
    batch: Any,
    *,
    params: Iterable[str] | int | None = None,
) -> float:
    """Effective rank of the covariance of per-sample gradients: as Fisher, less their mean.

    Args:
        model, loss_fn, batch, params: as in `gradient_gram`.

    Returns:
        Between 1 and N - 1; 0.0 if all gradients agree.
    """
    return _rank(gradient_gram(model, loss_fn, batch, params=params, center=True))


def _rank(gram: Tensor) -> float:
    return exp_entropy(torch.linalg.eigvalsh(gram).clamp_min(0.0), 0.0).item()


def _centred(gram: Tensor) -> Tensor:
    gram = gram - gram.mean(0, keepdim=True)
    return gram - gram.mean(1, keepdim=True)


class _ExpandedInVain(Exception):
    """The model cannot take a table's rows once per sample."""


class _Tools:
    """The losses of a batch, and the slower ways to gradients: all at once, or one by one."""

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFunction,
        batch: Any,
        parameters: dict[str, Tensor],
        cut: tuple[str, int] | None,
        *,
        may_expand: bool,
    ):
        self.model, self.loss_fn, self.batch = model, loss_fn, batch
        self.parameters, self.cut = parameters, cut
        self.samples = _count(batch)
        tensors = [x for x in tree_leaves(batch) if isinstance(x, Tensor)]
        self.watch = Watch(parameters, tensors, self.samples, may_expand)
        try:
            with self.watch:
                losses = loss_fn(model, batch)
            self.losses = _checked_losses(losses, self.samples)
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            if self.watch.expanded:
                raise _ExpandedInVain from error
            raise

    def one_by_one(self, names: list[str]) -> dict[str, list[Factors]]:
        """Every sample's gradients of these parameters, from a batch of its own."""
        chosen = [self.parameters[name] for name in names]
        rows: list[tuple[Tensor, ...]] = []
        for i in range(self.samples):
            alone = tree_map(
                lambda x, i=i: x[i : i + 1] if isinstance(x, Tensor) else x, self.batch
            )
            loss = _checked_losses(self.loss_fn(self.model, alone), 1)[0]
            together = self.losses[i]
            if not torch.isclose(loss, together, rtol=1e-3, atol=1e-5, equal_nan=True):
                raise ValueError(
                    f"the loss of sample {i} depends on the other samples: {together.item():.6g} "
                    f"in the batch, {loss.item():.6g} alone"
                )
            rows.append(torch.autograd.grad(loss, chosen))
        stacked = zip(*rows, strict=True)
        return {
            name: [whole(torch.stack(gradients))]
            for name, gradients in zip(names, stacked, strict=True)
        }

    def _kept(self, name: str) -> int | None:
        return self.cut[1] if self.cut and self.cut[0] == name else None

    def truncated(self, name: str, uses: list[Factors]) -> list[Factors]:
        """Only the entries of this parameter that count."""
        kept = self._kept(name)
        if kept is None:
            return uses
        rows = -(-kept // uses[0].right.shape[-1])
        return [whole(kernel.block(uses, 0, rows)[:, :kept])]

    def probe(self, factors: dict[str, list[Factors]], grams: dict[str, Tensor]) -> None:
        """Replaces what a random combination of the losses shows to be attributed wrongly.

        A gradient that belongs to another sample, or to several, comes with another sign here than
        in the gradient of the combination.
        """
        generator = torch.Generator().manual_seed(0)
        signs = torch.randint(0, 2, (self.samples,), generator=generator) * 2.0 - 1.0
        losses = _checked_losses(self.loss_fn(self.model, self.batch), self.samples)
        if self.watch.expanded and not torch.allclose(losses, self.losses, rtol=1e-3, atol=1e-5):
            raise _ExpandedInVain
        signs = signs.to(losses)
        gradients = torch.autograd.grad(losses @ signs, list(self.parameters.values()))
        wrong = []
        for (name, uses), gradient in zip(factors.items(), gradients, strict=True):
            expected = gradient.flatten()[: self._kept(name)]
            difference = kernel.combination(uses, signs).flatten() - expected
            size = grams[name].trace().sqrt()
            if difference.double().norm() > _PROBE_TOLERANCE * size:
                wrong.append(name)
        if wrong:
            again = self.one_by_one(wrong)
            factors |= {name: self.truncated(name, again[name]) for name in wrong}
            grams |= {name: kernel.parameter_gram(factors[name]) for name in wrong}


def _measured(
    tools: _Tools, check: bool, max_memory: int
) -> tuple[dict[str, list[Factors]], dict[str, Tensor]]:
    """Factors and Gram matrix of every chosen parameter."""
    factors = _factors(tools)
    grams = {}
    for name, uses in factors.items():
        grams[name] = kernel.parameter_gram(uses, max_bytes=max_memory)
        _require_finite(grams[name], name)
    if check:
        tools.probe(factors, grams)
    return factors, grams


def _factors(tools: _Tools) -> dict[str, list[Factors]]:
    """What every chosen parameter's gradients are made of."""
    parameters = tools.parameters
    watch = tools.watch
    apart = watch.unhandled | watch.changed_inputs()
    uses = [use for use in watch.uses if use.name not in apart]
    seen = {use.name for use in uses} | apart
    for name in parameters:
        if name not in seen:
            raise ValueError(f"parameter {name} does not reach the loss: leave it out of params")
    gradients: tuple[Tensor | None, ...] = ()
    if uses:
        edges = [use.edge for use in uses]
        gradients = torch.autograd.grad(tools.losses.sum(), edges, allow_unused=True)
    factors: dict[str, list[Factors]] = {}
    for use, gradient in zip(uses, gradients, strict=True):
        if gradient is not None:
            exact = torch.promote_types(parameters[use.name].dtype, torch.float32)
            factors.setdefault(use.name, []).append(use.rule(gradient.to(exact)))
    for use in uses:
        if use.name not in factors:
            raise ValueError(
                f"parameter {use.name} does not reach the loss: leave it out of params"
            )
    if apart:
        factors |= tools.one_by_one(sorted(apart))
    return {name: tools.truncated(name, factors[name]) for name in parameters}


def _chosen(
    model: nn.Module, params: Iterable[str] | int | None
) -> tuple[dict[str, Tensor], tuple[str, int] | None]:
    """Parameters by name, and the one of which only so many entries count."""
    trainable: dict[str, Tensor] = {
        name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad
    }
    if not trainable:
        raise ValueError("no parameter of the model requires gradients")
    if params is None:
        return trainable, None
    if isinstance(params, int):
        if params < 1:
            raise ValueError(f"params must be 1 or more entries, not {params}")
        chosen, left = {}, params
        for name, parameter in trainable.items():
            chosen[name] = parameter
            left -= parameter.numel()
            if left <= 0:
                return chosen, (name, parameter.numel() + left)
        return chosen, None
    patterns = [params] if isinstance(params, str) else list(params)
    for pattern in patterns:
        if not fnmatch.filter(trainable, pattern):
            raise ValueError(f"params: {pattern!r} matches none of {list(trainable)}")
    return {
        name: parameter
        for name, parameter in trainable.items()
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    }, None


def _count(batch: Any) -> int:
    tensors = [x for x in tree_leaves(batch) if isinstance(x, Tensor)]
    if not tensors:
        raise ValueError("batch holds no tensor")
    sizes = {x.shape[0] if x.dim() else 0 for x in tensors}
    if len(sizes) != 1:
        shapes = [tuple(x.shape) for x in tensors]
        raise ValueError(f"tensors of batch must share their first dimension N, not {shapes}")
    (samples,) = sizes
    if samples < 2:
        raise ValueError(f"batch has N = {samples} samples; N >= 2 is needed")
    return samples


def _checked_losses(losses: Any, samples: int) -> Tensor:
    if not isinstance(losses, Tensor) or not losses.is_floating_point():
        kind = losses.dtype if isinstance(losses, Tensor) else type(losses).__name__
        raise TypeError(f"loss_fn must return a floating-point tensor, not {kind}")
    if losses.shape != (samples,):
        hint = "; it must not be reduced over samples" if losses.dim() == 0 else ""
        raise ValueError(f"loss_fn must return shape ({samples},), not {tuple(losses.shape)}{hint}")
    if not losses.requires_grad:
        raise ValueError("the losses do not depend on any parameter that requires gradients")
    return losses


def _refuse_coupled(model: nn.Module) -> None:
    """What makes a sample's loss random, or dependent on other samples."""
    for name, module in model.named_modules():
        where = f"{name or 'the model'} ({type(module).__name__})"
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.training and module.p > 0:
            raise ValueError(f"dropout is on in {where}: call model.eval() first")
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and (
            module.training or not module.track_running_stats
        ):
            raise ValueError(f"{where} makes every sample's loss depend on the others")


def _require_finite(gram: Tensor, name: str) -> None:
    bad = ~torch.isfinite(gram.diagonal())
    if bad.any():
        sample = int(bad.nonzero()[0])
        raise ValueError(f"the gradient of sample {sample} is not finite in parameter {name}")
