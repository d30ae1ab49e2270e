"""Orthonormal vectors of a Krylov space, and a symmetric matrix projected onto them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]

#: A new direction shorter than this share of the product is rounding: the space is exhausted.
EXHAUSTED = {torch.float32: 1e-6, torch.float64: 1e-13}

#: Differences between <u, A v> and <v, A u>, relative to the largest entry of the projected matrix,
#: that may be rounding. Those of Hessians of deep networks in float32 are below 1e-5; the wrong
#: second derivatives that were met are above 1e-2.
LARGEST_ASYMMETRY = 1e-3


class Asymmetric(ArithmeticError):
    """Products are not those of a symmetric matrix: second derivatives somewhere are wrong.

    Or nothing but rounding: where all of a Hessian is the difference of much larger terms.

    Attributes:
        asymmetry: the largest |<u, A v> - <v, A u>| over the largest |<u, A v>|, of the vectors
            that were multiplied.
    """

    def __init__(self, asymmetry: float):
        super().__init__(
            f"products are not those of a symmetric matrix: u.Av and v.Au differ by "
            f"{asymmetry:.2g} of the largest"
        )
        self.asymmetry = asymmetry


class _Allowed(threading.local):
    """Whether this thread takes an asymmetry for rounding."""

    rounding = False


_allowed = _Allowed()


@contextlib.contextmanager
def rounding_allowed() -> Iterator[None]:
    """Inside, no asymmetry is too large: second derivatives have been found right otherwise."""
    _allowed.rounding = True
    try:
        yield
    finally:
        _allowed.rounding = False


def require_symmetric(difference: Tensor, largest: float) -> float:
    """The largest difference, by absolute value, over the largest entry; 0 where none is.

    Args:
        difference: of any shape, on the CPU, finite.
        largest: entry of the projected matrix, by absolute value.

    Raises:
        Asymmetric: it is more than rounding.
    """
    if difference.numel() == 0 or not difference.any():
        return 0.0
    most = difference.abs().max().item()
    asymmetry = most / max(largest, most)
    if asymmetry > LARGEST_ASYMMETRY and not _allowed.rounding:
        raise Asymmetric(asymmetry)
    return asymmetry


class Basis:
    """Orthonormal vectors and the matrix projected onto them.

    Args:
        product: (P,) -> (P,), symmetric.
        start: (P,), not zero.
        rows: vectors to make room for.
        fresh: makes a random (P,) vector.

    Attributes:
        vectors: (rows + 1, P); of which `size` have been multiplied, and one more is known.
        projected: (rows, rows) float64.
        beyond: (rows,) float64: of every product, what lay outside the basis; 0 where nothing but
            rounding did.
        settled: vectors at the beginning that are combinations of earlier ones.
        lost: (settled, settled) float64 on the CPU, inner products of what their products have
            outside of the basis, the directions that were dropped being taken as orthogonal to
            each other; None where that is only along the vector behind them.
        begun: random directions that were followed, the start among them.
        largest: entry of the projected matrix, by absolute value, that `asymmetry` has seen.
    """

    def __init__(self, product: Product, start: Tensor, rows: int, fresh: Callable[[], Tensor]):
        self.product, self.fresh = product, fresh
        self.vectors = start.new_empty((rows + 1, start.numel()))
        self.vectors[0] = start / start.norm()
        self.projected = start.new_zeros((rows, rows), dtype=torch.float64)
        self.beyond = start.new_zeros(rows, dtype=torch.float64)
        self.size = self.settled = 0
        self.lost: Tensor | None = None
        self.largest, self.begun = 0.0, 1
        # What the first product behind the settled vectors has along them.
        self._along = torch.zeros(0, dtype=torch.float64, device="cpu")

    def extend(self) -> None:
        """One product, and one more vector."""
        j = self.size
        w = self.product(self.vectors[j])
        basis = self.vectors[: j + 1]
        length = torch.linalg.vector_norm(w)
        first = basis @ w
        w = torch.addmv(w, basis.mT, first, alpha=-1.0)
        second = basis @ w
        w = torch.addmv(w, basis.mT, second, alpha=-1.0)
        beyond = torch.linalg.vector_norm(w)
        column = first.double() + second.double()
        self.projected[: j + 1, j] = column
        self.projected[j, : j + 1] = column
        self.beyond[j] = torch.where(beyond > EXHAUSTED[w.dtype] * length, beyond, 0.0)
        torch.div(w, beyond.clamp_min(torch.finfo(w.dtype).tiny), out=self.vectors[j + 1])
        self.size += 1

    def shrink(self, coefficients: Tensor, values: Tensor, beyond: Tensor, lost: Tensor) -> None:
        """Keeps combinations of the vectors, eigenvectors of the projected matrix, and the last.

        Args:
            coefficients: (size, p) orthonormal columns, on the CPU.
            values: (p,) their eigenvalues.
            beyond: (), what of the last product lay outside the basis.
            lost: (p, p) what `still_lost` says of them.
        """
        last = self.vectors[self.size].clone()
        self._combine(coefficients, values)
        self.vectors[self.settled] = last
        self._along = beyond * coefficients[-1]
        self.lost = lost if self.lost is not None else None

    def start_afresh(
        self, coefficients: Tensor, values: Tensor, beyond: Tensor, lost: Tensor
    ) -> None:
        """Keeps combinations of the vectors, and a random direction that has nothing of the others.

        What products of those that are kept have along the vector that is dropped is noted as lost.

        Args:
            as those of `shrink`.
        """
        known = self.size + int(beyond != 0.0)
        w = self._outside(self.fresh(), known)
        self._combine(coefficients, values)
        self.vectors[self.settled] = w
        dropped = beyond * coefficients[-1]
        self.lost = lost + torch.outer(dropped, dropped)
        self.begun += 1
        self._along = torch.zeros_like(dropped)

    def turn_to(self, coefficients: Tensor, beyond: Tensor, lost: Tensor, allowed: float) -> float:
        """Measures what the product of a combination has outside of the basis, and goes on there.

        Costs a product. Where that is not more than is allowed, it is noted only.

        Args:
            coefficients: (size,) of length 1, on the CPU.
            beyond: (), what of the last product lay outside the basis.
            lost: (size, size) what `still_lost` says of the vectors.
            allowed: residual.

        Returns:
            The residual.
        """
        basis, last = self.vectors[: self.size], torch.zeros_like(coefficients)
        last[-1] = beyond
        w = self.product(coefficients.to(basis) @ basis)
        for _ in range(2):
            w = torch.addmv(w, basis.mT, basis @ w, alpha=-1.0)
        residual = torch.linalg.vector_norm(w).item()
        outside = residual**2
        others = torch.eye(self.size, dtype=lost.dtype, device="cpu")
        others -= torch.outer(coefficients, coefficients)
        if residual > allowed:
            self.vectors[self.size] = self._outside(w, self.size)
            lost, last = lost + torch.outer(last, last), torch.zeros_like(last)
            self.beyond[self.size - 1] = 0.0  # what lies behind the basis is something else now
        else:
            outside = max(0.0, outside - (last @ coefficients).item() ** 2)
        self.lost = others @ lost @ others + outside * torch.outer(coefficients, coefficients)
        self._along, self.settled = last, self.size
        return residual

    def begin_again(self) -> None:
        """Puts a random direction behind vectors that span all that was reached."""
        self.vectors[self.size] = self._outside(self.fresh(), self.size)

    def still_lost(self, coefficients: Tensor, projected: Tensor) -> Tensor:
        """(p, p) inner products of what the products of combinations have outside of the basis.

        Without what lies along the vector behind it.

        Args:
            coefficients: (size, p) on the CPU.
            projected: on the CPU.
        """
        if self.lost is None:
            return coefficients.new_zeros(coefficients.shape[1], coefficients.shape[1])
        q = self.settled
        found = projected[:q, q : self.size].clone()
        found[:, :1] -= self._along[:, None]
        return coefficients[:q].mT @ (self.lost - found @ found.mT) @ coefficients[:q]

    def asymmetry(self, projected: Tensor, beyond: Tensor) -> float:
        """Of <v_i, A v_j> and <v_j, A v_i> for i < j, the largest difference, over the largest.

        The first is an entry of the projected matrix. The second is known from how v_j was made: it
        is orthogonal to all of A v_i but for the next vector's part.

        Args:
            projected, beyond: on the CPU, finite.

        Raises:
            Asymmetric: it is more than rounding.
        """
        q, n = self.settled, self.size
        difference = projected[q:n, q:n].triu(1)
        difference.diagonal(1).sub_(beyond[q : n - 1])
        if self.lost is None and q < n:
            along = projected[:q, q:n].clone()
            along[:, 0] -= self._along
            difference = torch.cat([along, difference])
        self.largest = max(self.largest, projected[:n, :n].abs().max().item())
        return require_symmetric(difference, self.largest)

    def _combine(self, coefficients: Tensor, values: Tensor) -> None:
        kept, old = len(values), self.vectors[: self.size]
        coefficients = coefficients.to(old.dtype)
        # Some columns at a time: no second basis is stored.
        for columns in torch.arange(old.shape[1], device="cpu").split(1 << 20):
            part = slice(int(columns[0]), int(columns[-1]) + 1)
            self.vectors[:kept, part] = coefficients.mT @ old[:, part]
        self.projected.zero_()
        self.projected[range(kept), range(kept)] = values.to(self.projected)
        self.size = self.settled = kept

    def _outside(self, w: Tensor, known: int) -> Tensor:
        """(P,) of length 1, what w has outside of the first vectors."""
        basis = self.vectors[:known]
        for _ in range(3):
            w = torch.addmv(w, basis.mT, basis @ w, alpha=-1.0)
            w = w / torch.linalg.vector_norm(w)
        return w
