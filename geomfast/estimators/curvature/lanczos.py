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

from geomfast.estimators.curvature.basis import Asymmetric, Basis, Product
from geomfast.estimators.curvature.missing import Missing, points_beyond
from geomfast.estimators.curvature.rescaled import Rescaled, exponent_of, times_two_to

__all__ = [
    "BASIS_BYTES",
    "ENDS",
    "HELD_BYTES",
    "Asymmetric",
    "Basis",
    "Eigenpairs",
    "Product",
    "drawn_once",
    "eigenpairs",
    "near",
    "one_start",
    "random_start",
    "random_vector",
]

#: Bytes that a basis may take.
BASIS_BYTES = 2 << 30
_LARGEST_BASIS = 60
# Products along a random direction, where the start's space is exhausted, before what they show of
# a single pair is believed.
_FURTHER_STEPS = 5
# Values may differ by this many times the rounding of the largest, and be the same.
_ROUNDING = 32
ENDS = ("largest", "smallest", "both", "magnitude")


@dataclass(frozen=True)
class Eigenpairs:
    """Some eigenvalues, their vectors, and how sure they are.

    Attributes:
        values: (k,) float64, descending.
        vectors: (k, P) orthonormal rows, in the order of the values.
        residuals: (k,) float64, the norms |A v - value v|: an eigenvalue of A lies within each.
            Of an outermost pair it is that before a last step, which lowers it unmeasured. Of
            several it may be 1.4 times that: two parts of it are added as if at a right angle.
        iterations: products computed.
        converged: whether every residual is small enough, and they are complete.
        complete: whether it was confirmed that no eigenvalue is missing among them, of which the
            search has found fewer copies than there are, say. Not asked of one pair of an end.
        asymmetry: the largest difference of u.Av and v.Au that was seen, over the largest u.Av.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    iterations: int
    converged: bool
    complete: bool
    asymmetry: float


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
    if rows.is_floating_point():  # of any scale
        rows = times_two_to(rows, -(exponent_of(rows) or 0))
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
            for values near zero, times what rounding leaves of the largest). Of more than one pair
            no residual is asked to be below 32 roundings of the largest.
        max_iterations: products at most.
        seed: one less than that of the first random direction that is followed after the start,
            which may have been drawn by this one.
        look_every: products between looks at convergence; 1 on the CPU and 4 elsewhere, where a
            look waits for the device.

    Returns:
        The pairs as good as they became.

    Where k is more than 1, it is then confirmed that none is missing: a random vector orthogonal to
    the wanted ones is followed until it excludes further eigenvalues beyond them (see `missing`),
    at a risk of about 1 in 1000 if there is one. That costs about half as many products
    again, 6 to 40 (20 become 35 for k = 2 of a small GPT, 37 become 58 for k = 5), and as many for
    every further copy that is found, with k more to measure the residuals then. For k = 1, where
    copies do not matter, it costs nothing.

    Raises:
        FloatingPointError: a product was not finite.
        Asymmetric: products are not those of a symmetric matrix.
    """
    dimension = start.numel()
    wanted = min(2 * k if ends == "both" else k, dimension)
    room = int(BASIS_BYTES // (dimension * start.element_size()))
    rows = min(max(2 * wanted + 8, min(_LARGEST_BASIS, room)), dimension, max_iterations)
    rows = max(rows, min(wanted, max_iterations))
    look_every = look_every or (1 if start.device.type == "cpu" else 4)
    seeds = iter(range(seed + 1, seed + 1 + dimension + max_iterations))
    scaled = Rescaled(product)
    basis = Basis(scaled, start, rows, lambda: random_vector(start, dimension, next(seeds)))
    eps = torch.finfo(start.dtype).eps
    iterations, asymmetry = 0, 0.0
    # One pair is the outermost of all that the start has a part of. More may have copies.
    confirm, missing = k > 1, None
    while True:
        steps = min(look_every, rows - basis.size, max_iterations - iterations)
        before = basis.size
        for _ in range(steps):
            basis.extend()
        iterations += steps
        projected, beyond = basis.projected.cpu(), basis.beyond.cpu()
        if not torch.isfinite(projected).all():
            raise FloatingPointError("a product is not finite")
        if new := [j for j in range(before, basis.size) if beyond[j] == 0.0]:
            # What was reached is invariant, but there may be more beside it.
            basis.size, confirm = new[0] + 1, True
        asymmetry = max(asymmetry, basis.asymmetry(projected, beyond))
        size, last = basis.size, beyond[basis.size - 1]
        values, coefficients = torch.linalg.eigh(projected[:size, :size])
        along = residuals = last * coefficients[-1].abs()
        whole = size == dimension
        if basis.lost is not None and not whole:  # nothing is outside of all
            lost = basis.still_lost(coefficients, projected).diagonal()
            residuals = torch.hypot(along, lost.clamp_min(0.0).sqrt())
        order = _order(values, ends, k)
        # Of a search of small ones, the basis may hold none of the large ones any more.
        largest = values.new_tensor(basis.largest) if confirm else values.abs().max()
        smallest = eps ** (2 / 3) * largest
        allowed = tol * values[order].abs().clamp_min(smallest)
        slack = allowed.clamp_min(_ROUNDING * eps * largest)
        if confirm:  # what is put together again of what was lost is known to rounding only
            allowed = slack
        enough = len(order) == wanted
        converged = enough and bool((residuals[order] <= allowed).all())
        if missing is not None and missing.changed(values[order]):
            missing = None
        complete = whole or not confirm
        if missing is not None and not complete:
            others = _next(values, ends, k)
            settled = len(others) > 0 and bool((residuals[others] <= allowed.min()).all())
            complete = missing.excluded(projected, beyond, size, settled)
        done = converged and complete
        if done and basis.begun > 2 and not whole and iterations + wanted <= max_iterations:
            # Of what was dropped more than once the parts are not known apart: measured now.
            found = _measured(basis, projected, last, coefficients[:, order], allowed)
            iterations += len(found)
            residuals[order[: len(found)]] = found
            if bool((found <= allowed[: len(found)]).all()):
                break
            continue
        if done or iterations >= max_iterations or whole:
            break
        known = size + int(last != 0.0)
        if new and not enough:
            basis.begin_again()
        elif converged and missing is None and known < dimension:
            kept = coefficients[:, order]
            basis.start_afresh(kept, values[order], last, basis.still_lost(kept, projected))
            points = points_beyond(values[order], slack, ends, k)
            most = _FURTHER_STEPS + 2 * wanted if k == 1 else None
            missing = Missing(wanted, values[order], slack, points, dimension - known, most)
        elif size == rows:
            more = (rows - wanted) // (4 if ends == "both" else 2)
            kept = coefficients[:, index := _order(values, ends, k + more)[: rows - 1]]
            basis.shrink(kept, values[index], last, basis.still_lost(kept, projected))
            if missing is not None:
                missing.shrink(kept)
        elif (
            enough
            and not converged
            and (complete or missing is None)
            and bool((along[order] <= allowed).all())
        ):  # what is lost is found again where no step of Lanczos leads to it
            i = (residuals[order] / allowed).argmax().reshape(1)
            _measured(basis, projected, last, coefficients[:, order[i]], allowed[i])
            iterations += 1
    order = order[values[order].argsort(descending=True)]
    combined = torch.zeros(len(order), basis.size + 1, dtype=torch.float64, device="cpu")
    combined[:, :-1] = coefficients[:, order].mT
    if done and basis.lost is None:
        _step_outwards(combined, order, values, beyond[basis.size - 1])
    if not combined[:, -1].any():  # what lies behind the basis may be rounding
        combined = combined[:, :-1]
    vectors = combined.to(start) @ basis.vectors[: combined.shape[1]]
    values, residuals = scaled.undone(values[order]), scaled.undone(residuals[order])
    return Eigenpairs(values, vectors, residuals, iterations, done, complete, asymmetry)


def _measured(
    basis: Basis, projected: Tensor, last: Tensor, coefficients: Tensor, allowed: Tensor
) -> Tensor:
    """(m,) residuals of pairs, by a product each; of none behind the first that is too large.

    The search goes on with what that one has outside of the basis.

    Args:
        projected, last: on the CPU; the latter what of the last product lay outside the basis.
        coefficients: (size, k) of the vectors.
        allowed: (k,) residuals.
    """
    everything = torch.eye(basis.size, dtype=torch.float64, device="cpu")
    found = []
    for y, most in zip(coefficients.mT, allowed.tolist(), strict=True):
        lost = basis.still_lost(everything, projected)
        found.append(basis.turn_to(y, last, lost, most))
        if found[-1] > most:
            break
    return torch.tensor(found, dtype=torch.float64, device="cpu")


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


def _next(values: Tensor, ends: str, k: int) -> Tensor:
    """Indices of the best value of each end that is not wanted; empty where an end has none."""
    order, more = _order(values, ends, k), _order(values, ends, k + 1)
    found = more[~torch.isin(more, order)]
    return found if len(found) == (2 if ends == "both" else 1) else found[:0]


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
