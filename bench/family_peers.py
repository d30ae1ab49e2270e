"""The family of measures by the functions that other libraries have for each, one after the other.

Where a library is not installed, the few lines that its users would write stand in: TwoNN by
SciPy's tree of neighbours, CKA by its definition.
"""

import importlib
import importlib.util
import math
from collections.abc import Callable

import numpy as np
import torch
from scipy.spatial import KDTree
from torch import Tensor

from bench.stored_gradients import gram


def of_spectra(x: Tensor) -> dict[str, float]:
    """Six numbers of one matrix, a decomposition in each, as the functions of torch have it."""
    values = torch.linalg.svdvals(x)
    shares = values / values.sum()
    eigenvalues = torch.linalg.svdvals(x).square()
    squares = torch.linalg.svdvals(x).square()
    tail = torch.linalg.svdvals(x)[:50].double().numpy()
    number = np.arange(1, len(tail) + 1)
    fitted = (number >= 5) & (tail > 1e-6 * tail[0])  # below that float32 is rounding
    decay = [math.nan]
    if fitted.sum() >= 5:
        weights = 1 / np.sqrt(number[fitted])
        decay = np.polyfit(np.log(number[fitted]), 2 * np.log(tail[fitted]), 1, w=weights)
    return {
        "rankme": torch.special.entr(shares).sum().exp().item(),
        "participation_ratio": (eigenvalues.sum().square() / eigenvalues.square().sum()).item(),
        "stable_rank": (
            torch.linalg.matrix_norm(x).square() / torch.linalg.matrix_norm(x, 2).square()
        ).item(),
        "numerical_rank": float(torch.linalg.matrix_rank(x, rtol=1e-6)),
        "first_component_share": (squares[0] / squares.sum()).item(),
        "condition_number": torch.linalg.cond(x).item(),
        "alpha_req": -float(decay[0]),
    }


def two_nn(x: Tensor) -> float:
    """By scikit-dimension where it is installed, else by SciPy's neighbours."""
    points = x.unique(dim=0).double().numpy()
    if len(points) < 20:
        return math.nan
    if importlib.util.find_spec("skdim"):
        return float(importlib.import_module("skdim").id.TwoNN().fit(points).dimension_)
    distances, _ = KDTree(points).query(points, k=3)
    ratios = np.sort(np.log(distances[:, 2] / distances[:, 1]))[: int(0.9 * len(points))]
    heights = -np.log(1 - np.arange(1, len(ratios) + 1) / len(points))
    return float(ratios @ heights / (ratios @ ratios))


def anisotropy(x: Tensor) -> float:
    """By torchmetrics where it is installed, else by torch's normalize."""
    n = len(x)
    if importlib.util.find_spec("torchmetrics"):
        functional = importlib.import_module("torchmetrics.functional")
        return (functional.pairwise_cosine_similarity(x).sum() / (n * (n - 1))).item()
    units = torch.nn.functional.normalize(x, dim=-1)
    return ((units @ units.mT).sum().item() - n) / (n * (n - 1))


def cka(x: Tensor, y: Tensor) -> float:
    """Unbiased, by the definition of Song et al. 2012."""

    def hsic(k: Tensor, m: Tensor) -> Tensor:
        n = len(k)
        k, m = k - k.diag().diag(), m - m.diag().diag()
        mixed = k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 * k.sum(0) @ m.sum(0) / (n - 2)
        return ((k @ m).trace() + mixed) / (n * (n - 3))

    k, m = x.double() @ x.double().mT, y.double() @ y.double().mT
    return (hsic(k, m) / (hsic(k, k) * hsic(m, m)).sqrt()).item()


def neural_collapse(x: Tensor, labels: Tensor) -> float:
    """NC1 by dense matrices."""
    classes, own, counts = labels.unique(return_inverse=True, return_counts=True)
    x = x.double()
    means = torch.stack([x[own == c].mean(0) for c in range(len(classes)) if counts[c] > 1])
    index = (counts > 1).cumsum(0) - 1
    kept = counts[own] > 1
    spread = x[kept] - means[index[own[kept]]]
    centered = means - means.mean(0)
    within, between = spread.mT @ spread / len(spread), centered.mT @ centered / len(means)
    return (torch.trace(within @ torch.linalg.pinv(between, rtol=1e-9)) / len(means)).item()


def of_gradients(
    gradients: Callable[[], list[Tensor]], labels: Tensor, *, shared: bool
) -> dict[str, float]:
    """Ranks, noise scale, alignment, norm and stiffness of stored per-sample gradients.

    Args:
        gradients: computes them.
        labels: (N,) class of every sample.
        shared: whether they are computed once for all, or by every function for itself.
    """
    if shared:
        once = gradients()
        gradients = lambda: once  # noqa: E731

    def kernel() -> Tensor:
        return gram(gradients(), torch.float32)

    def rank(k: Tensor) -> float:
        values = torch.linalg.eigvalsh(k).clamp_min(0)
        return torch.special.entr(values / values.sum()).sum().exp().item()

    def cosines() -> Tensor:
        k = kernel()
        norms = k.diag().sqrt()
        return k / norms[:, None] / norms

    n = len(labels)
    k = kernel()
    found = {"fisher_rank": rank(k)}
    k = kernel() if not shared else k
    h = torch.eye(n, dtype=k.dtype) - 1 / n
    found["gradient_covariance_rank"] = rank(h @ k @ h)
    k = kernel() if not shared else k
    variance = (k.trace() - k.sum() / n) / (n - 1)
    found["gradient_noise_scale"] = (variance / (k.sum() / n**2 - variance / n)).item()
    found["gradient_norm"] = k.sum().clamp_min(0).sqrt().item() / n
    different = ~torch.eye(n, dtype=torch.bool)
    c = cosines()
    found["gradient_alignment"] = c[different].mean().item()
    c = cosines() if not shared else c
    found["gradient_stiffness"] = c[labels[:, None] != labels].mean().item()
    return found
