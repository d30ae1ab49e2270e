"""Products of the Hessian that have been checked, prepared once for functions called in turn."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from torch import nn

from geomfast.estimators.arguments import check_loss, check_model
from geomfast.estimators.batches import batches_of
from geomfast.estimators.calls import measurable, require_sound
from geomfast.estimators.checks import LossFunction
from geomfast.estimators.curvature.fused import hessian_products
from geomfast.estimators.curvature.gauss_newton import GaussNewtonProducts
from geomfast.estimators.curvature.products import DataProducts
from geomfast.estimators.curvature.restricted import RestrictedProducts
from geomfast.estimators.curvature.verify import wrong_second_derivatives
from geomfast.estimators.entries import select_entries

KINDS = {"hessian": hessian_products, "gauss-newton": GaussNewtonProducts}


class _Shared(threading.local):
    """What `one_preparation` keeps: what products were prepared for, and how to drop them."""

    kept: tuple[tuple[Any, ...], DataProducts] | None = None
    open: contextlib.ExitStack | None = None


_shared = _Shared()


@contextlib.contextmanager
def one_preparation() -> Iterator[None]:
    """Inside, products of one model, loss_fn, data, params and matrix are prepared once.

    For functions of `geomfast.estimators.hessian` called in turn, in one thread, on the same
    objects, none of which may change meanwhile. Values stay the same to the bit.
    """
    with contextlib.ExitStack() as _shared.open:
        try:
            yield
        finally:
            _shared.kept = _shared.open = None


@contextlib.contextmanager
def checked_products(
    model: nn.Module,
    loss_fn: LossFunction,
    data: Any,
    params: Iterable[str] | None,
    matrix: str,
    kinds: Mapping[str, Callable[..., DataProducts]] = KINDS,
) -> Iterator[DataProducts]:
    """Products that have been checked, of a model that is left as it was."""
    if _shared.open is None:
        with fresh_products(model, loss_fn, data, params, matrix, kinds) as products:
            yield products
        return
    made_for = (model, loss_fn, data, params, matrix, kinds)
    if _shared.kept is None or any(
        a is not b for a, b in zip(_shared.kept[0], made_for, strict=True)
    ):
        _shared.kept = None
        _shared.open.close()
        _shared.kept = made_for, _shared.open.enter_context(fresh_products(*made_for))
    try:
        yield _shared.kept[1]
    except BaseException:  # of memory that did not suffice, say: their graph is dropped
        _shared.kept = None
        _shared.open.close()
        raise


@contextlib.contextmanager
def fresh_products(
    model: nn.Module,
    loss_fn: LossFunction,
    data: Any,
    params: Iterable[str] | None,
    matrix: str,
    kinds: Mapping[str, Callable[..., DataProducts]] = KINDS,
) -> Iterator[DataProducts]:
    """As `checked_products`, prepared for nobody else."""
    check_model(model)
    check_loss(loss_fn)
    if not isinstance(matrix, str) or matrix not in KINDS:
        raise ValueError(f"matrix must be one of {', '.join(KINDS)}, not {matrix!r}")
    with measurable(model, loss_fn, batches_of(data), widen=True) as (model, losses, batches):
        selection = select_entries(model, params)
        names = list(selection) if selection.entries else params
        products = kinds[matrix](model, losses, batches, names)
        assert products.first_losses is not None  # of the first batch, which has been computed
        require_sound(losses, model, batches[0], products.first_losses)
        if products.custom:
            custom = ", ".join(sorted(products.custom))
            _require_right(products, losses, f"custom functions {custom}")
        yield RestrictedProducts(products, selection) if selection.entries else products


def _require_right(products: DataProducts, losses: LossFunction, suspected: str) -> None:
    """Raises where products are not those of the Hessian, as far as differences can tell."""
    wrong = wrong_second_derivatives(
        products.model, losses, products.batches[0], list(products.parameters)
    )
    if wrong:
        raise ValueError(
            f"the second derivative of {', '.join(wrong)} is wrong: a product with the Hessian is "
            f"not what differences of the gradient say ({suspected}); write it in plain torch "
            "operations, or leave its parameters out of params"
        )
