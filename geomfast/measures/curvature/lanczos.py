"""Eigenvalues of a symmetric matrix from its products with vectors.

Lanczos with thick restart (Wu and Simon 2000, "Thick-restart Lanczos method for large symmetric
eigenvalue problems") and full reorthogonalisation by classical Gram-Schmidt done twice, two
matrix-vector products with the basis each (Giraud et al. 2005, "Rounding error analysis of the
classical Gram-Schmidt orthogonalization process"). Scalars stay on the vectors' device between
looks at convergence.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]

#: Bytes that a basis may take.
BASIS_BYTES = 2 << 30
_LARGEST_BASIS = 60
# A new direction shorter than this share of the product is rounding: the space is exhausted.
_EXHAUSTED = {torch.float32: 1e-6, torch.float64: 1e-13}

# Products along a fresh random direction before what it shows is believed.
_FURTHER_STEPS = 5

ENDS = ("largest", "smallest", "both", "magnitude")


@dataclass(frozen=True)
class Eigenpairs:
    """Some eigenvalues, their vectors, and how sure they are.

    Attributes:
        values: (k,) float64, descending.
        vectors: (k, P) orthonormal rows, in the order of the values.
        residuals: (k,) float64, the norms |A v - value v|: an eigenvalue of A lies within each.
            Of an outermost pair it is that before a last step, which lowers it unmeasured.
        iterations: products computed.
        converged: whether every residual is small enough.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    iterations: int
    converged: bool


class Basis:
    """Orthonormal vectors and the matrix projected onto them.

    Args:
        product: (P,) -> (P,), symmetric.
        start: (P,), not zero.
        rows: vectors to make room for.
        fresh: makes a random (P,) vector where the space is exhausted.
    """

    def __init__(self, product: Product, start: Tensor, rows: int, fresh: Callable[[], Tensor]):
        self.product, self.fresh = product, fresh
        self.vectors = start.new_empty((rows + 1, start.numel()))
        self.vectors[0] = start / start.norm()
        self.projected = start.new_zeros((rows, rows), dtype=torch.float64)
        # Of every product, what lay outside the basis; 0 where nothing but rounding did.
        self.beyond = start.new_zeros(rows, dtype=torch.float64)
        self.size = 0

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
        self.beyond[j] = torch.where(beyond > _EXHAUSTED[w.dtype] * length, beyond, 0.0)
        torch.div(w, beyond.clamp_min(torch.finfo(w.dtype).tiny), out=self.vectors[j + 1])
        self.size += 1

    def shrink(self, coefficients: Tensor, values: Tensor) -> None:
        """Keeps combinations of the vectors, eigenvectors of the projected matrix, and the last.

        Args:
            coefficients: (size, p) orthonormal columns.
            values: (p,) their eigenvalues.
        """
        kept, old = len(values), self.vectors[: self.size]
        coefficients = coefficients.to(old.dtype)
        # Some columns at a time: no second basis is stored.
        for columns in torch.arange(old.shape[1], device="cpu").split(1 << 20):
            part = slice(int(columns[0]), int(columns[-1]) + 1)
            self.vectors[:kept, part] = coefficients.mT @ old[:, part]
        self.vectors[kept] = self.vectors[self.size].clone()
        self.projected.zero_()
        self.projected[range(kept), range(kept)] = values.to(self.projected)
        self.size = kept

    def begin_again(self, size: int) -> None:
        """Puts a random direction behind the first vectors, which span all that was reached."""
        self.size = size
        w = self.fresh()
        basis = self.vectors[:size]
        for _ in range(3):
            w = torch.addmv(w, basis.mT, basis @ w, alpha=-1.0)
            w = w / torch.linalg.vector_norm(w)
        self.vectors[size] = w


def random_vector(like: Tensor, dimension: int, seed: int) -> Tensor:
    """(P,) standard normal entries of the type and on the device of `like`, by seed alone."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(dimension, generator=generator, dtype=like.dtype, device="cpu").to(
        like.device
    )


#: Bytes of random numbers that `one_start` keeps; what does not fit is drawn each time.
HELD_BYTES = 2 << 30


class _Held(threading.local):
    """What `one_start` keeps, by all that it depends on; None outside of it."""

    drawn: dict[Hashable, Tensor] | None = None


_held = _Held()


@contextlib.contextmanager
def one_start() -> Iterator[None]:
    """Inside, what this thread draws for matrices of one size from the same seed is drawn once.

    For many matrices in turn: 150 million normal numbers take a second. They are kept on the CPU,
    and dropped at the end.
    """
    _held.drawn = {}
    try:
        yield
    finally:
        _held.drawn = None


def drawn_once(key: Hashable, draw: Callable[[], Tensor]) -> Tensor:
    """What draw() makes, or made before inside `one_start`; not to be changed.

    Args:
        key: all that it depends on.
        draw: makes a tensor on the CPU, the same each time.
    """
    if _held.drawn is None:
        return draw()
    if key in _held.drawn:
        return _held.drawn[key]
    found = draw()
    if sum(x.nbytes for x in (*_held.drawn.values(), found)) <= HELD_BYTES:
        _held.drawn[key] = found
    return found


def random_start(like: Tensor, dimension: int, seed: int) -> Tensor:
    """As `random_vector`; not to be changed, as another search may be given it too."""
    on_cpu = torch.empty(0, dtype=like.dtype, device="cpu")
    key = (dimension, seed, like.dtype)
    return drawn_once(key, lambda: random_vector(on_cpu, dimension, seed)).to(like.device)


def near(start: Tensor, noise: Tensor) -> Tensor:
    """(P,), the sum of the given vectors, and enough noise to find what they miss.

    Args:
        start: (P,) or (m, P).
        noise: (P,).

    Raises:
        ValueError: start has another length, is not finite, or is zero.
    """
    rows = start.reshape(-1, start.shape[-1])
    if rows.shape[1] != noise.numel():
        raise ValueError(f"start has {rows.shape[1]} entries, the parameters have {noise.numel()}")
    total = rows.to(noise).sum(0)
    if not torch.isfinite(total).all() or not total.any():
        raise ValueError("start must be finite and not zero")
    return total / total.norm() + 0.2 * noise / noise.norm()


def eigenpairs(
    product: Product,
    start: Tensor,
    *,
    k: int,
    ends: str,
    tol: float,
    max_iterations: int,
    seed: int = 0,
    look_every: int | None = None,
) -> Eigenpairs:
    """Eigenpairs at the ends of the spectrum.

    Args:
        product: (P,) -> (P,), symmetric; NaN or infinity in it raises.
        start: (P,) float32 or float64.
        k: how many; of each end where `ends` is "both".
        ends: "largest", "smallest", "both" or "magnitude" (largest absolute values).
        tol: a pair has converged when its residual is at most `tol` times its absolute value (or,
            for values near zero, times what rounding leaves of the largest).
        max_iterations: products at most.
        seed: of random directions where the space is exhausted.
        look_every: products between looks at convergence; 1 on the CPU and 4 elsewhere, where a
            look waits for the device.

    Returns:
        The pairs as good as they became.

    Raises:
        FloatingPointError: a product was not finite.
    """
    dimension = start.numel()
    wanted = min(2 * k if ends == "both" else k, dimension)
    room = int(BASIS_BYTES // (dimension * start.element_size()))
    rows = min(max(2 * wanted + 8, min(_LARGEST_BASIS, room)), dimension, max_iterations)
    rows = max(rows, min(wanted, max_iterations))
    look_every = look_every or (1 if start.device.type == "cpu" else 4)
    seeds = iter(range(seed + 1, seed + 1 + dimension + max_iterations))
    basis = Basis(product, start, rows, lambda: random_vector(start, dimension, next(seeds)))
    iterations = patience = 0
    believed = start.new_empty(0, dtype=torch.float64, device="cpu")
    while True:
        steps = min(look_every, rows - basis.size, max_iterations - iterations)
        before = basis.size
        for _ in range(steps):
            basis.extend()
        iterations += steps
        projected, beyond = basis.projected.cpu(), basis.beyond.cpu()
        if not torch.isfinite(projected).all():
            raise FloatingPointError("a product is not finite")
        new = [j for j in range(before, basis.size) if beyond[j] == 0.0]
        if new and new[0] + 1 < dimension:
            basis.begin_again(new[0] + 1)
        values, coefficients = torch.linalg.eigh(projected[: basis.size, : basis.size])
        residuals = beyond[basis.size - 1] * coefficients[-1].abs()
        order = _order(values, ends, k)
        smallest = torch.finfo(start.dtype).eps ** (2 / 3) * values.abs().max()
        scale = values[order].abs().clamp_min(smallest)
        # What was reached is invariant, but there may be more beside it: some further steps have
        # to change nothing.
        if new and (
            len(believed) != len(order) or ((values[order] - believed).abs() > tol * scale).any()
        ):
            believed = values[order]
            patience = iterations + _FURTHER_STEPS + 2 * wanted
        enough = len(order) == wanted and (iterations >= patience or basis.size == dimension)
        done = bool(enough and (residuals[order] <= tol * scale).all())
        if done or iterations >= max_iterations or basis.size == dimension:
            break
        if basis.size == rows:
            more = (rows - wanted) // (4 if ends == "both" else 2)
            kept = _order(values, ends, k + more)[: rows - 1]
            basis.shrink(coefficients[:, kept], values[kept])
    order = order[values[order].argsort(descending=True)]
    combined = torch.zeros(len(order), basis.size + 1, dtype=torch.float64, device="cpu")
    combined[:, :-1] = coefficients[:, order].mT
    if done:
        _step_outwards(combined, order, values, beyond[basis.size - 1])
    if not combined[:, -1].any():  # what lies behind the basis may be rounding
        combined = combined[:, :-1]
    vectors = combined.to(start) @ basis.vectors[: combined.shape[1]]
    return Eigenpairs(values[order], vectors, residuals[order], iterations, done)


def _step_outwards(combined: Tensor, order: Tensor, values: Tensor, beyond: Tensor) -> None:
    """A power step of the outermost pair with the shifted matrix, which costs no product.

    A v = value v + r is known, and with it (A - shift) v. With the shift in the middle of the other
    Ritz values, the residual (A - shift) r / (value - shift) is the smaller the further the value
    lies out. The one vector beyond the basis comes in, so that only one pair can move without
    being turned towards the others.

    Args:
        combined: (k, size + 1) wanted vectors in terms of the basis and the vector behind it; one
            row is changed.
        order: (k,) which of the values they belong to.
        values: (size,) Ritz values, ascending.
        beyond: (), what of the last product lay outside the basis.
    """
    ends = {0: values[1:], len(values) - 1: values[:-1]}
    outermost = [i for i, at in enumerate(order.tolist()) if at in ends]
    if not outermost or len(values) == 1:
        return
    i = max(outermost, key=lambda i: abs(float(values[order[i]])))
    at = int(order[i])
    distance = values[at] - (ends[at][0] + ends[at][-1]) / 2
    if distance != 0:
        combined[i, -1] = beyond * combined[i, -2] / distance
        combined[i] /= combined[i].norm()


def _order(values: Tensor, ends: str, k: int) -> Tensor:
    """Indices of the k wanted values (k of each end for "both") among ascending ones."""
    n = len(values)
    k = min(k, n)
    if ends == "largest":
        return torch.arange(n - 1, n - 1 - k, -1, device="cpu")
    if ends == "smallest":
        return torch.arange(k, device="cpu")
    if ends == "magnitude":
        return values.abs().argsort(descending=True)[:k]
    return torch.cat(
        [
            torch.arange(n - 1, n - 1 - k, -1, device="cpu"),
            torch.arange(min(k, n - k), device="cpu"),
        ]
    )
