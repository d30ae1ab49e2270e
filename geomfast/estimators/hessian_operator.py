"""The Hessian of the mean loss as a linear operator, for algorithms of other libraries."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from geomfast.estimators.arguments import check_loss, check_model
from geomfast.estimators.batches import Batches, batches_of, tensors_of
from geomfast.estimators.checks import LossFunction
from geomfast.estimators.copies import copied
from geomfast.estimators.curvature.prepared import fresh_products
from geomfast.estimators.curvature.products import DataProducts
from geomfast.estimators.curvature.ranks import Ranks
from geomfast.estimators.curvature.rescaled import exponent_of, times_two_to
from geomfast.estimators.curvature.vectors import checked_vector, flattened, unflattened
from geomfast.estimators.guard import plain_computation, project, uncompiled
from geomfast.estimators.hessian import Matrix
from geomfast.estimators.stopping import check_stop


def hessian_operator(
    model: nn.Module,
    loss_fn: LossFunction,
    data: Any,
    *,
    matrix: Matrix = "hessian",
    params: Iterable[str] | None = None,
    process_group: Any = None,
) -> HessianOperator:
    r"""The Hessian of the mean loss as a linear operator, of the weights as they are now.

    Products are exact (Pearlmutter 1994, $Hv = \nabla (\nabla L \cdot v)$), of any model that can
    be differentiated twice; attention is computed by its plain formula, which alone can be. What
    the first product needs is prepared once, here, and kept as long as the operator.

    The operator has a copy of the model: training may go on between products, and the matrix stays
    that of the weights at this call. For other weights make another operator. `loss_fn` is called
    with the copy, and has to use the model that it is given. Data are not copied; a product after
    they were changed in place is refused.

    Args:
        model: any module. Its mode, gradients and parameters stay as they are.
        loss_fn: `loss_fn(model, batch) -> (N,)`, one differentiable loss per sample.
        data: one batch (a tensor, or a tuple, list or mapping of tensors), or an iterable of
            batches, which count by their samples.
        matrix: "hessian", or "gauss-newton" for its part without the curvature of the model
            (Schraudolph 2002).
        params: names of parameters, with shell wildcards; those that begin with "!" are left out.
            None for all that require gradients.
        process_group: of torch.distributed, whose processes all make this call with samples of
            their own and the same model; the mean is then over the samples of all. Every product
            is a call of all of them with the same vector, and the same to each of them.

    Returns:
        A `HessianOperator` of shape (P, P), P the entries of the parameters.

    Raises:
        TypeError: an argument of another kind, named; a model wrapped for distributed training.
        ValueError: as `geomfast.hessian_top_eigenvalues`; a model that cannot be copied; ranks
            whose models differ.
        RuntimeError: torch.distributed is not available; another rank has failed.

    Examples:
        >>> import geomfast as gf
        >>> from scipy.sparse.linalg import eigsh
        >>> net, x = torch.nn.Linear(3, 1, bias=False), torch.diag(torch.tensor([1.0, 2.0, 3.0]))
        >>> H = gf.hessian_operator(net, lambda m, b: m(b)[:, 0] ** 2, x)  # 2 x^T x / 3
        >>> [round(value, 3) for value in (H @ torch.ones(3)).tolist()]
        [0.667, 2.667, 6.0]
        >>> round(float(eigsh(H.to_scipy(), k=1, return_eigenvectors=False)[0]), 3)
        6.0
    """
    check_model(model)
    check_loss(loss_fn)
    if isinstance(model, DistributedDataParallel):
        raise TypeError(
            "model is a DistributedDataParallel, which has no second derivative: give its own "
            "model, model.module, on every rank, and process_group="
        )
    if process_group is None:
        own = _copy_of(model)
        products = _prepared(own, loss_fn, batches_of(data), params, matrix)
        return HessianOperator(products, matrix)
    ranks = Ranks(process_group)
    with ranks.together():
        own = _copy_of(model)
        products = _prepared(own, loss_fn, batches_of(data), params, matrix)
    ranks.require_same_model(own, (matrix, products.sizes, products.like.dtype))
    return HessianOperator(products, matrix, ranks)


def _copy_of(model: nn.Module) -> nn.Module:
    try:
        with torch.inference_mode(False):
            own = copied(uncompiled(model))
    except Exception as error:
        raise ValueError(
            f"the model cannot be copied, which an operator needs so that its matrix stays the "
            f"same when training goes on: {type(error).__name__}: {error}"
        ) from error
    for parameter in own.parameters():
        parameter.grad = None
    project(own)
    return own


def _prepared(
    own: nn.Module,
    loss_fn: LossFunction,
    batches: Batches,
    params: Iterable[str] | None,
    matrix: Matrix,
) -> DataProducts:
    try:
        # What leaving puts back is the state of a copy that nothing else calls.
        with fresh_products(own, loss_fn, batches, params, matrix) as products:
            return products
    except ValueError as error:
        if "reach the loss" in str(error):
            error.add_note("of a copy of the model: loss_fn has to use the model that it is given")
        raise


class HessianOperator:
    """A symmetric matrix known by its products with vectors; made by `geomfast.hessian_operator`.

    Attributes:
        shape: (P, P).
        dtype, device: of vectors; float32 for parameters of 16 bits.
        matrix: "hessian" or "gauss-newton".
        shapes: of the parameters, by name, in the order of a vector.
        samples: that the mean is over, those of all ranks.
    """

    def __init__(self, products: DataProducts, matrix: str, ranks: Ranks | None = None):
        self._products, self._ranks, self.matrix = products, ranks, matrix
        self.shape = (products.dimension, products.dimension)
        self.dtype, self.device = products.like.dtype, products.like.device
        self.shapes = {name: p.shape for name, p in products.parameters.items()}
        own = sum(products.counts)
        self.samples = own if ranks is None else sum(ranks.gathered(own))
        self._share = own / self.samples
        self._versions = self._versions_of_data()

    def __repr__(self) -> str:
        side, _ = self.shape
        return f"HessianOperator({self.matrix}, {side} x {side}, {self.dtype} on {self.device})"

    def matvec(self, v: Tensor) -> Tensor:
        """The product with a vector.

        Args:
            v: (P,) of any floating-point type and device.

        Returns:
            (P,) of the wider of v's type and the operator's, on the operator's device.

        Raises:
            TypeError: v is no real floating-point tensor.
            ValueError: it has another shape, or is not finite; the product is not finite; data
                were changed in place; another vector on another rank.
        """
        return self._product(checked_vector("v", v, self.shape[1]).to(self.device))

    def matmat(self, vectors: Tensor) -> Tensor:
        """The products with k vectors, one after the other.

        Args:
            vectors: (P, k), the vectors as columns.

        Returns:
            (P, k).

        Raises:
            As `matvec`.
        """
        if not isinstance(vectors, Tensor) or vectors.dim() != 2:
            kind = tuple(vectors.shape) if isinstance(vectors, Tensor) else type(vectors).__name__
            raise ValueError(f"vectors must be a tensor ({self.shape[1]}, k), not {kind}")
        columns = [self.matvec(column) for column in vectors.unbind(1)]
        if not columns:
            kind = torch.promote_types(vectors.dtype, self.dtype)
            return vectors.new_empty((self.shape[0], 0), dtype=kind, device=self.device)
        return torch.stack(columns, 1)

    def __matmul__(self, x: Any) -> Tensor:
        """`matvec` of (P,), `matmat` of (P, k)."""
        if isinstance(x, np.ndarray):  # whose own answer would not say what is wrong
            raise TypeError("v must be a real floating-point tensor, not ndarray; see to_scipy()")
        if not isinstance(x, Tensor):
            return NotImplemented
        return self.matvec(x) if x.dim() == 1 else self.matmat(x)

    def gradient(self) -> Tensor:
        """(P,) gradient of the mean loss, at the operator's weights and over all its samples."""
        with contextlib.nullcontext() if self._ranks is None else self._ranks.together():
            self._require_unchanged()
            with plain_computation(self.device):
                found = self._products.gradient()
        return self._summed(found)

    def unflatten(self, v: Tensor) -> dict[str, Tensor]:
        """(P,) as a view of each parameter's shape, by the parameter's name.

        Raises:
            TypeError, ValueError: as `matvec`.
        """
        return unflattened(checked_vector("v", v, self.shape[1]), self.shapes)

    def flatten(self, parts: Mapping[str, Tensor]) -> Tensor:
        """(P,) of a tensor for every parameter: the opposite of `unflatten`.

        Raises:
            TypeError: parts is no mapping of names to real tensors.
            ValueError: a name that is missing or that no parameter has; another shape.
        """
        return flattened(parts, self.shapes, self._products.like)

    def to_scipy(self) -> LinearOperator:
        """As an operator of `scipy.sparse.linalg`, for its `eigsh`, `cg`, `minres` and others.

        It takes and returns float64 arrays on the CPU. Products are computed in the operator's own
        type: those of a float32 model are exact to about 1e-6 of the largest, and an algorithm
        should not be asked for more (or take `model.double()`).
        """
        return _Scipy(self)

    def _product(self, v: Tensor) -> Tensor:
        """(P,) -> (P,) of the wider type."""
        check_stop()
        if self._ranks is None:
            self._require_unchanged()
        else:
            self._ranks.require_same_vector(v.double(), self._require_unchanged)
        # Numbers of float64 that float32 would make 0: residuals of a solver become small.
        narrows = torch.promote_types(v.dtype, self.dtype) != self.dtype
        exponent = (exponent_of(v) or 0) if narrows else 0
        narrow = times_two_to(v, -exponent).to(self.dtype)
        with plain_computation(self.device):
            found = self._products(narrow)
        found = self._summed(found)
        if not torch.isfinite(found).all():
            raise self._not_finite(v, narrow)
        return times_two_to(found.double(), exponent) if narrows else found

    def _summed(self, found: Tensor) -> Tensor:
        """Of the mean over this rank's samples, the mean over all ranks'."""
        if self._ranks is None:
            return found
        return self._ranks.sum_(found * self._share)

    def _not_finite(self, v: Tensor, narrow: Tensor) -> ValueError:
        if not torch.isfinite(v).all():
            return ValueError("v is not finite")
        with plain_computation(self.device):
            where = self._products.where_not_finite(narrow)
        if self._ranks is not None:
            own = where.startswith("batch")  # what is finite here is not so on another rank
            where = f"rank {self._ranks.rank}, {where}" if own else "on another rank"
        return ValueError(f"a product with the {self.matrix} is not finite: {where}")

    def _versions_of_data(self) -> list[int]:
        """Counts of the changes in place that torch knows of."""
        tensors = [x for batch in self._products.batches for x in tensors_of(batch)]
        return [x._version for x in tensors if not x.is_inference()]

    def _require_unchanged(self) -> None:
        if self._versions_of_data() != self._versions:
            raise ValueError(
                "data have been changed in place since the operator was made: give it a copy of "
                "them, or make another operator"
            )


class _Scipy(LinearOperator):
    """A `HessianOperator` to SciPy: symmetric, in float64."""

    def __init__(self, operator: HessianOperator):
        super().__init__(np.dtype(np.float64), operator.shape)
        self.operator = operator

    def _matvec(self, x: Any) -> Any:
        given = np.asarray(x)
        if np.iscomplexobj(given):
            raise TypeError("v must be real: multiply its real and imaginary parts apart")
        v = torch.from_numpy(np.array(given, np.float64).reshape(-1))
        return self.operator.matvec(v).cpu().numpy()

    def _rmatvec(self, x: Any) -> Any:
        return self._matvec(x)
