"""Linear regression, whose localized and tempered posterior is Gaussian, with its covariances."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tests import cases


class Parted(nn.Module):
    """A linear map whose weights are two parameters, `first` and `second`."""

    def __init__(self, weights: Tensor, first: int) -> None:
        super().__init__()
        self.first = nn.Parameter(weights[:first].clone())
        self.second = nn.Parameter(weights[first:].clone())

    def forward(self, x: Tensor) -> Tensor:
        return x @ torch.cat([self.first, self.second])


def squared(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """(N,) losses."""
    return 0.5 * (model(batch[0]) - batch[1]).square()


@dataclass
class Regression:
    """n samples of d features, and what is exact of the chains' distribution, float64.

    Attributes:
        x, y: of the data.
        center: (d,) the model's weights.
        moved: which of them chains move.
        nbeta, localization: of the chains.
    """

    x: Tensor
    y: Tensor
    center: Tensor
    moved: slice
    nbeta: float
    localization: float

    def posterior(self) -> tuple[Tensor, Tensor]:
        """Mean (d,) and covariance (d, d) of all weights; rows of those that stay are zero."""
        n, x = len(self.x), self.x[:, self.moved]
        own = self.center[self.moved]
        rest = self.y - self.x @ self.center + x @ own
        size = len(own)
        precision = self.nbeta * x.T @ x / n + self.localization * torch.eye(size).double()
        mean, all_of = self.center.clone(), len(self.center)
        mean[self.moved] = torch.linalg.solve(
            precision, self.nbeta * x.T @ rest / n + self.localization * own
        )
        covariance = torch.zeros(all_of, all_of, dtype=torch.float64)
        covariance[self.moved, self.moved] = torch.linalg.inv(precision)
        return mean, covariance

    def means(self, x: Tensor, y: Tensor) -> Tensor:
        """(N,): E of each sample's loss."""
        mean, covariance = self.posterior()
        return 0.5 * ((x @ mean - y).square() + ((x @ covariance) * x).sum(1))

    def covariances(self, a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> Tensor:
        """(A, B): covariances of the losses of two data sets.

        Of u and v, jointly normal with means m and k: Cov(u^2, v^2) = 2 c^2 + 4 m k c.
        """
        mean, covariance = self.posterior()
        c = a[0] @ covariance @ b[0].T
        m, k = a[0] @ mean - a[1], b[0] @ mean - b[1]
        return 0.5 * c**2 + m[:, None] * k * c


def regression(
    samples: int = 10, features: int = 4, moved: slice = slice(None), off: float = 0.15
) -> Regression:
    """Of noisy data, at weights a little off its minimum."""
    x = cases.normal(samples, features, dtype=torch.float64, seed=3)
    y = x.sum(1) + cases.normal(samples, dtype=torch.float64, seed=4)
    center = torch.linalg.lstsq(x, y[:, None]).solution[:, 0] + off
    # What float32 holds of it, so that the model has the same.
    x, y, center = (t.float().double() for t in (x, y, center))
    return Regression(x, y, center, moved, 8.0, 2.0)


def queries(samples: int = 5, features: int = 4) -> tuple[Tensor, Tensor]:
    """Other samples."""
    x = cases.normal(samples, features, dtype=torch.float64, seed=5).float().double()
    return x, x.sum(1)
