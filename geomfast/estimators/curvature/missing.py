"""Whether a Lanczos search has missed an eigenvalue.

From one vector Lanczos sees one direction of every eigenspace, and nothing of eigenvectors that the
vector is orthogonal to. A random vector orthogonal to what was found has a share of every other
eigenvector. How small that share must be for an eigenvalue not to have shown itself after some
products is known from the projected matrix alone (van Dorsselaer, Hochstenbach and van der Vorst
2000, "Computing probabilistic bounds for extreme eigenvalues of symmetric matrices with the Lanczos
method"): the eigenvalue is excluded as soon as that is too small to be by chance.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# A random unit vector in n dimensions has less than this over the root of n along a given
# direction with a probability of 0.8 times it.
_UNLIKELY = 1e-3
# Products before a pair that has converged is believed to be the best of what was not found.
_FEWEST = 3


class Missing:
    """Follows a random vector's Krylov space, orthogonal to what was found.

    Args:
        first: which vector of the basis is the random one; those before it are what was found.
        believed: (k,) the wanted values.
        slack: (k,) what they may change by.
        points: eigenvalues at or beyond each of these are to be excluded.
        dimension: of the space that the random vector was drawn from.
        most: products after which nothing further is asked; None for as many as it takes.
    """

    def __init__(
        self,
        first: int,
        believed: Tensor,
        slack: Tensor,
        points: list[float],
        dimension: int,
        most: int | None,
    ):
        self.believed, self.slack = believed, slack
        self._points = torch.tensor(points, dtype=torch.float64, device="cpu")
        self._enough = dimension / _UNLIKELY**2
        # Of an eigenvector whose value is the point: its part along each vector of the basis, in
        # terms of its part along the random vector.
        self._parts = torch.zeros(len(points), first + 1, dtype=torch.float64, device="cpu")
        self._parts[:, first] = 1.0
        self._products, self._most = 0, math.inf if most is None else most
        self._complete = False

    def changed(self, values: Tensor) -> bool:
        """Whether an eigenvalue was missing: the wanted values are others."""
        return bool(((values - self.believed).abs() > self.slack).any())

    def excluded(self, projected: Tensor, beyond: Tensor, size: int, next_converged: bool) -> bool:
        """Whether no eigenvalue is missing, given that the wanted values are as they were.

        Args:
            projected: (rows, rows), on the CPU.
            beyond: (rows,), what of every product lay outside the basis; 0 where the Krylov space
                is exhausted, which then has a part of every eigenvector.
            size: of the basis.
            next_converged: whether, at every end, the best pair that is not wanted has converged.
        """
        if self._complete:
            return True
        for j in range(self._parts.shape[1] - 1, size):
            if beyond[j] == 0.0:
                self._complete = True
                return True
            rest = self._points * self._parts[:, j] - self._parts @ projected[: j + 1, j]
            # What is enough stays enough; numbers of a long search are kept from overflowing.
            rest = (rest / beyond[j]).clamp(-1e100, 1e100)
            self._parts = torch.cat([self._parts, rest[:, None]], 1)
            self._products += 1
        seen = self._parts.square().sum(1)
        best = next_converged and self._products >= _FEWEST
        tired = self._products >= self._most
        self._complete = best or tired or bool((seen > self._enough).all())
        return self._complete

    def shrink(self, coefficients: Tensor) -> None:
        """As the basis is shrunk to combinations of its vectors, (size, p) columns."""
        if self._complete:
            return
        size = len(coefficients)
        kept = self._parts[:, :size] @ coefficients
        self._parts = torch.cat([kept, self._parts[:, size:]], 1)


def points_beyond(values: Tensor, slack: Tensor, ends: str, k: int) -> list[float]:
    """What eigenvalues that are missing would lie at or beyond: one of each end.

    Args:
        values, slack: of the wanted pairs, from the outermost of an end inwards, the largest first;
            and what they may change by.
        ends, k: as in `lanczos.eigenpairs`.
    """
    if ends == "magnitude":
        outside = (values[-1].abs() + slack[-1]).item()
        return [outside, -outside]
    points = []
    if ends in ("largest", "both"):
        points.append((values[k - 1] + slack[k - 1]).item())
    if ends in ("smallest", "both"):
        points.append((values[-1] - slack[-1]).item())
    return points
