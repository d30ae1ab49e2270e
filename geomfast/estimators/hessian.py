"""Hessian of the mean loss: eigenvalues at its ends, trace, and density of all eigenvalues.

None forms the matrix. Every product is exact, of any model that can be differentiated twice: what
autograd would get wrong is computed otherwise or refused. Each result says how sure it is.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from geomfast.estimators.arguments import (
    check_flag,
    check_number,
    check_seed,
    check_whole,
)
from geomfast.estimators.checks import LossFunction
from geomfast.estimators.curvature import lanczos
from geomfast.estimators.curvature.basis import Product
from geomfast.estimators.curvature.density import Density, spectral_density
from geomfast.estimators.curvature.gauss_newton import GaussNewtonProducts
from geomfast.estimators.curvature.lanczos import Eigenpairs, eigenpairs, near, random_start
from geomfast.estimators.curvature.prepared import checked_products
from geomfast.estimators.curvature.products import DataProducts, HessianProducts
from geomfast.estimators.curvature.sound import LARGEST_ROUNDING, NotConverged, Rounded, finite
from geomfast.estimators.curvature.trace import Trace, hutch_plus_plus

__all__ = [
    "LARGEST_ROUNDING",
    "Matrix",
    "NotConverged",
    "Rounded",
    "hessian_density",
    "hessian_top_eigenvalues",
    "hessian_trace",
]

Matrix = Literal["hessian", "gauss-newton"]
_Found = TypeVar("_Found")
_BY_LAYER = {"hessian": HessianProducts, "gauss-newton": GaussNewtonProducts}


def hessian_top_eigenvalues(
    model: nn.Module,
    loss_fn: LossFunction,
    data: Any,
    *,
    k: int = 1,
    tol: float = 1e-3,
    max_iterations: int = 100,
    seed: int = 0,
    ends: str = "largest",
    matrix: Matrix = "hessian",
    params: Iterable[str] | None = None,
    per_layer: bool = False,
    start: Tensor | None = None,
) -> Any:
    r"""Eigenvalues at the ends of the spectrum of the Hessian of the mean loss.

    Lanczos with thick restart (Wu and Simon 2000) and full reorthogonalisation. Attention is
    computed by its plain formula inside, which alone can be differentiated twice.

    Args:
        model: any module. Its mode, gradients and parameters stay as they are.
        loss_fn: `loss_fn(model, batch) -> (N,)`, one differentiable loss per sample.
        data: one batch (a tensor, or a tuple, list or mapping of tensors), or an iterable of
            batches, which count by their samples.
        k: number of eigenvalues; of each end for "both". Equal eigenvalues are found as often as
            they occur: of more than one it is confirmed that none is missing, for about half as
            many products again (see `curvature.lanczos.eigenpairs`).
        tol: an eigenvalue has converged when its residual |H v - value v| is at most `tol` times
            its absolute value.
        max_iterations: largest number of products, k or more.
        seed: seed of the noise in the first vector, which is otherwise the gradient: it lies mostly
            in the span of the largest eigenvectors (Gur-Ari et al. 2018, arXiv:1812.04754).
        ends: "largest", "smallest", "both" or "magnitude" (largest absolute values).
        matrix: "hessian", or "gauss-newton" for its part without the curvature of the model.
        params: names of parameters, with shell wildcards; those that begin with "!" are left out.
            Of single heads of attention as in `geomfast.llc`.
            None for all that require gradients.
        per_layer: whether to return eigenvalues of every layer's diagonal block instead, as a
            dictionary of module name -> result. A layer has the parameters of its module alone.
        start: (P,) or (m, P), vectors near the wanted ones, from an earlier checkpoint say, in
            place of the gradient.

    Returns:
        `values` (k,) float64, descending; `residuals` (k,), bounds for that of the outermost pair;
        `vectors` (k, P), in the order of `model.named_parameters()`; `iterations`, products
        computed; `converged`; `complete`, whether it was confirmed that none is missing among
        several; `asymmetry`, the largest difference of u.Hv and v.Hu that was seen.

    Warns:
        Rounded: the loss is so small that products are rounding to more than a hundredth, which
            the residuals then say.
        NotConverged: a residual is too large after `max_iterations`, or it was not confirmed that
            no eigenvalue is missing.

    Raises:
        TypeError: an argument of another kind, named; loss_fn does not return a floating-point
            tensor; params are no names.
        ValueError: bad arguments; no data; a reduced loss; a loss or product with NaN or infinity
            (the batch is named); parameters that no loss uses, or that are complex; losses that are
            random or depend on other samples (the module, or a sample, is named); a model without
            second derivative, or with a wrong one (the module is named).
    """
    if ends not in lanczos.ENDS:
        raise ValueError(f"ends must be one of {', '.join(lanczos.ENDS)}, not {ends!r}")
    check_number(tol=tol)
    check_flag(per_layer=per_layer)
    if not tol > 0:
        raise ValueError(f"tol must be positive, not {tol}")
    check_whole(1, k=k, max_iterations=max_iterations)
    check_seed(seed)
    if start is not None and not isinstance(start, Tensor):
        raise TypeError(f"start must be a tensor (P,) or (m, P), not {type(start).__name__}")
    if not per_layer:
        with checked_products(model, loss_fn, data, params, matrix) as products:
            size = products.dimension
            if start is None and ends != "smallest":
                start = _unless_zero(products.gradient())
            found = _top(products, products, size, k, tol, max_iterations, seed, ends, start)
            if ends == "largest":  # for `geomfast.estimators.subspace`
                products.found["top", k, tol, max_iterations, seed] = found
            return found
    with checked_products(model, loss_fn, data, params, matrix, _BY_LAYER) as products:
        assert isinstance(products, HessianProducts)
        return _by_layer(products, k, tol, max_iterations, seed, ends)


def _by_layer(
    products: HessianProducts, k: int, tol: float, max_iterations: int, seed: int, ends: str
) -> dict[str, Eigenpairs]:
    """Of every layer's diagonal block; one graph is used for all of them."""
    gradient = dict(
        zip(products.sizes, products.gradient().split(list(products.sizes.values())), strict=True)
    )
    found = {}
    for layer, (names, size, block) in _blocks(products, per_layer=True).items():
        near = None
        if ends != "smallest":
            near = _unless_zero(torch.cat([gradient[name] for name in names]))
        found[layer] = _top(
            products, block, size, min(k, size), tol, max_iterations, seed, ends, near, layer
        )
    return found


def _blocks(
    products: HessianProducts, *, per_layer: bool
) -> dict[str, tuple[list[str], int, Product]]:
    """Diagonal blocks by name: of modules, or of single parameters.

    Returns:
        Names of the block's parameters, its side, and its product, of one graph for all of them.
    """
    members: dict[str, list[str]] = {}
    for name in products.parameters:
        members.setdefault(name.rpartition(".")[0] if per_layer else name, []).append(name)
    return {
        block: (
            names,
            sum(products.sizes[name] for name in names),
            lambda v, names=names: products.block(names, v),
        )
        for block, names in members.items()
    }


def hessian_trace(
    model: nn.Module,
    loss_fn: LossFunction,
    data: Any,
    *,
    probes: int = 30,
    seed: int = 0,
    matrix: Matrix = "hessian",
    params: Iterable[str] | None = None,
    per_layer: bool = False,
    per_parameter: bool = False,
) -> Any:
    """Trace of the Hessian of the mean loss, by Hutch++ (Meyer et al. 2021, arXiv:2010.09649).

    Args:
        model, loss_fn, data, matrix, params: as in `hessian_top_eigenvalues`.
        probes: number of products, 6 or more; of each block where there are several.
        seed: seed of the random signs.
        per_layer: whether to return the trace of every layer's diagonal block instead, as a
            dictionary of module name -> trace. A layer has the parameters of its module alone.
            The traces of all blocks add up to that of the whole matrix.
        per_parameter: the same of every parameter's diagonal block, by the parameter's name.

    Returns:
        `mean`, `stderr` (its standard error, for few probes widened until mean +- 2 stderr holds
        the trace 95 times in 100) and `products`. Exact, with rounding for `stderr`,
        where the parameters have at most `probes` entries.

    Raises:
        TypeError, ValueError: as `hessian_top_eigenvalues`.

    Examples:
        >>> import geomfast as gf
        >>> net, x = torch.nn.Linear(3, 1, bias=False), 2 * torch.eye(3)
        >>> round(gf.hessian_trace(net, lambda m, b: m(b)[:, 0] ** 2, x).mean, 3)
        8.0
    """
    check_whole(1, probes=probes)
    check_seed(seed)
    if probes < 6:
        raise ValueError(f"probes must be 6 or more, not {probes}")
    if _check_blocks(per_layer, per_parameter):

        def of_block(product: Product, products: DataProducts, size: int) -> Trace:
            return hutch_plus_plus(product, products.like, size, probes, seed)

        arguments = (model, loss_fn, data, params, matrix)
        return _of_blocks(arguments, per_layer, probes, of_block)
    with checked_products(model, loss_fn, data, params, matrix) as products:
        products.replay.expected = min(probes, products.dimension)
        return finite(
            products,
            lambda: hutch_plus_plus(products, products.like, products.dimension, probes, seed),
        )


def hessian_density(
    model: nn.Module,
    loss_fn: LossFunction,
    data: Any,
    *,
    probes: int = 10,
    iterations: int = 50,
    seed: int = 0,
    width: float | None = None,
    matrix: Matrix = "hessian",
    params: Iterable[str] | None = None,
    per_layer: bool = False,
    per_parameter: bool = False,
) -> Any:
    """Density of the Hessian's eigenvalues, by stochastic Lanczos quadrature.

    Ubaru, Chen and Saad (2017); Ghorbani et al. (2019, arXiv:1901.10159) for networks.

    Args:
        model, loss_fn, data, matrix, params: as in `hessian_top_eigenvalues`.
        probes: number of random starts.
        iterations: products of each start.
        seed: seed of the starts.
        width: standard deviation of the Gaussian that smooths, in units of eigenvalues; None for
            a hundredth of their span (each block has its own, where there are several).
        per_layer: whether to return the density of every layer's diagonal block instead, as a
            dictionary of module name -> density. A layer has the parameters of its module alone.
        per_parameter: the same of every parameter's diagonal block, by the parameter's name.

    Returns:
        `grid` and `density` (1024,) float64, which integrates to 1; `stderr` over probes; `nodes`
        and `weights` (probes, iterations) of the quadrature before smoothing.

    Raises:
        TypeError, ValueError: as `hessian_top_eigenvalues`.
    """
    check_whole(1, probes=probes, iterations=iterations)
    check_seed(seed)
    if width is not None:
        check_number(width=width)
    if width is not None and not width > 0:
        raise ValueError(f"width must be positive, not {width}")
    if width == math.inf:
        raise ValueError("width must be finite, not inf")

    def of_block(product: Product, products: DataProducts, size: int) -> Density:
        return spectral_density(
            product,
            products.like,
            size,
            probes=probes,
            iterations=iterations,
            seed=seed,
            width=width,
        )

    if _check_blocks(per_layer, per_parameter):
        arguments = (model, loss_fn, data, params, matrix)
        return _of_blocks(arguments, per_layer, probes * iterations, of_block)
    with checked_products(model, loss_fn, data, params, matrix) as products:
        size = products.dimension
        products.replay.expected = probes * min(iterations, size)
        found = finite(products, lambda: of_block(products, products, size))
        if width is None:
            products.found["density", probes, iterations, seed] = found
        return found


def _check_blocks(per_layer: bool, per_parameter: bool) -> bool:
    """Whether diagonal blocks are asked for."""
    check_flag(per_layer=per_layer, per_parameter=per_parameter)
    if per_layer and per_parameter:
        raise ValueError("per_layer and per_parameter are both True: choose one")
    return bool(per_layer or per_parameter)


def _of_blocks(
    arguments: tuple[Any, ...],
    per_layer: bool,
    expected: int,
    compute: Callable[[Product, DataProducts, int], _Found],
) -> dict[str, _Found]:
    """Of every diagonal block what `compute` makes of (its product, all products, its side).

    Args:
        arguments: model, loss_fn, data, params and matrix.
        per_layer: blocks of modules, rather than of parameters.
        expected: products of each block.
        compute: raises as `finite` knows.
    """
    model, loss_fn, data, params, matrix = arguments
    with checked_products(model, loss_fn, data, params, matrix, _BY_LAYER) as products:
        assert isinstance(products, HessianProducts)
        products.replay.expected = expected
        return {
            name: finite(products, lambda b=block, n=size: compute(b, products, n), whole=False)
            for name, (_, size, block) in _blocks(products, per_layer=per_layer).items()
        }


def _top(
    products: DataProducts,
    product: Callable[[Tensor], Tensor],
    dimension: int,
    k: int,
    tol: float,
    max_iterations: int,
    seed: int,
    ends: str,
    start: Tensor | None,
    layer: str = "",
) -> Eigenpairs:
    if k > dimension:
        raise ValueError(f"k = {k} eigenvalues of a matrix of side {dimension}")
    if max_iterations < k:
        raise ValueError(f"max_iterations = {max_iterations} is less than k = {k}")
    first = random_start(products.like, dimension, seed)
    if start is not None:
        first = near(start, first)
    found = finite(
        products,
        lambda: eigenpairs(
            product, first, k=k, ends=ends, tol=tol, max_iterations=max_iterations, seed=seed
        ),
        whole=not layer,
    )
    if found.asymmetry > LARGEST_ROUNDING and not layer:
        least = found.asymmetry * found.values.abs().max()
        return replace(found, residuals=found.residuals.clamp_min(least.item()), converged=False)
    if not found.converged:
        where = f" of {layer}" if layer else ""
        worst = (found.residuals / found.values.abs().clamp_min(1e-300)).max().item()
        missing = "" if found.complete else ", and it was not confirmed that none is missing"
        warnings.warn(
            f"eigenvalues{where} have not converged after {found.iterations} products: the "
            f"largest relative residual is {worst:.2g}, tol is {tol:.2g}{missing}; raise "
            "max_iterations",
            NotConverged,
            stacklevel=3,
        )
    return found


def _unless_zero(gradient: Tensor) -> Tensor | None:
    return gradient if gradient.any() and torch.isfinite(gradient).all() else None
