"""Products that are not those of a symmetric matrix are refused, at no product more."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from geomfast.estimators.curvature.basis import LARGEST_ASYMMETRY, Asymmetric
from geomfast.estimators.curvature.density import spectral_density
from geomfast.estimators.curvature.lanczos import ENDS, eigenpairs, random_vector
from geomfast.estimators.curvature.products import HessianProducts
from geomfast.estimators.curvature.trace import hutch_plus_plus
from geomfast.testbed.models.gpt import GPT
from geomfast.testbed.models.scales import Scale
from tests.estimators.curvature.cases import build, made, next_token, planted

SYMMETRIC = planted(torch.cat([torch.tensor([5.0, 4.0]), torch.linspace(-1.0, 2.0, 70)])).matrix
SKEW = torch.randn(72, 72, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def top(product: Any, like: Tensor, n: int, **changes: Any) -> Any:
    call: dict[str, Any] = {"k": 1, "ends": "largest", "tol": 1e-4, "max_iterations": 60, **changes}
    return eigenpairs(product, random_vector(like, n, 0), **call)


def trace(product: Any, like: Tensor, n: int) -> Any:
    return hutch_plus_plus(product, like, n, 12, 0)


def density(product: Any, like: Tensor, n: int) -> Any:
    return spectral_density(product, like, n, probes=2, iterations=12, seed=0)


MEASURES = [top, trace, density]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("measure", MEASURES)
def test_a_matrix_that_is_not_symmetric(measure: Any, dtype: torch.dtype):
    for share in (0.03, 1.0, 100.0):
        matrix = (SYMMETRIC + share * (SKEW - SKEW.mT)).to(dtype)
        with pytest.raises(Asymmetric, match=r"u\.Av and v\.Au differ by [\d.]+ of") as found:
            measure(matrix.mv, matrix[0], 72)
        assert LARGEST_ASYMMETRY < found.value.asymmetry <= 1.0
    right = SYMMETRIC.to(dtype)
    measure(right.mv, right[0], 72)


def test_density_without_room_for_a_basis(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("geomfast.estimators.curvature.density.BASIS_BYTES", 0)
    wrong = SYMMETRIC + SKEW - SKEW.mT
    with pytest.raises(Asymmetric):
        density(wrong.mv, wrong[0], 72)
    for matrix in (SYMMETRIC, SYMMETRIC.float(), torch.eye(72), torch.zeros(72, 72)):
        density(matrix.mv, matrix[0], 72)


def test_an_exact_trace_sees_all_of_the_matrix():
    wrong = torch.eye(5)
    wrong[3, 1] = 0.1
    with pytest.raises(Asymmetric, match=r"0\.1 of the largest"):
        trace(wrong.mv, wrong[0], 5)


@pytest.mark.parametrize("ends", ENDS)
@pytest.mark.parametrize("k", [1, 3])
def test_what_was_seen_is_said_through_restarts(ends: str, k: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("geomfast.estimators.curvature.lanczos._LARGEST_BASIS", 14)
    for dtype, rounding in ((torch.float64, 1e-14), (torch.float32, 1e-5)):
        matrix = SYMMETRIC.to(dtype)
        found = top(matrix.mv, matrix[0], 72, k=k, ends=ends, max_iterations=400)
        assert found.converged and 0.0 < found.asymmetry <= rounding
    little = SYMMETRIC + 1e-7 * (SKEW - SKEW.mT)
    found = top(little.mv, little[0], 72, k=k, ends=ends, max_iterations=400)
    assert 1e-8 < found.asymmetry < 1e-6


def test_no_product_more():
    calls: list[int] = []
    matrix = SYMMETRIC

    def product(v: Tensor) -> Tensor:
        calls.append(1)
        return matrix @ v

    assert top(product, matrix[0], 72).iterations == len(calls)
    calls.clear()
    assert trace(product, matrix[0], 72).products == len(calls) == 12
    calls.clear()
    density(product, matrix[0], 72)
    assert len(calls) == 24


def products_of(model: nn.Module, batch: Tensor) -> tuple[Any, Tensor, int]:
    """By double backward as autograd does it."""
    parameters = list(model.parameters())
    loss = model(batch).square().sum(1).mean()
    gradient = torch.autograd.grad(loss, parameters, create_graph=True)
    flat = torch.cat([g.flatten() for g in gradient])

    def product(v: Tensor) -> Tensor:
        rows = torch.autograd.grad(flat, parameters, v, retain_graph=True, materialize_grads=True)
        return torch.cat([row.flatten() for row in rows])

    return product, flat.detach(), len(flat)


@pytest.mark.parametrize("shape", [(2, 1), (6, 5)])
def test_the_fused_double_backward_of_weight_norm(shape: tuple[int, int]):
    """torch's is wrong; where it is mended, this test says so and can go."""
    torch.manual_seed(0)
    model = parametrizations.weight_norm(nn.Linear(*shape)).double()
    product, like, n = products_of(model, torch.randn(9, shape[0]).double())
    matrix = torch.stack([product(row) for row in torch.eye(n).double()])
    assert (matrix - matrix.mT).abs().max() > 0.01 * matrix.abs().max()
    for measure in MEASURES:
        with pytest.raises(Asymmetric):
            measure(product, like, n)


@pytest.mark.parametrize("name", [*build(), "deep"])
def test_hessians_in_float32_are_symmetric_but_for_rounding(name: str):
    """One of 12 layers too."""
    if name == "deep":
        model = GPT(Scale("deep", 12, 32, 4, 1e-3, 13, 16))
        torch.manual_seed(0)
        batch, loss = torch.randint(0, 13, (4, 16)), next_token
    else:
        model, batch, loss = made(name)
    products = HessianProducts(model, loss, batch)
    found = eigenpairs(
        products, random_vector(products.like, products.dimension, 0), k=3, ends="both",
        tol=1e-3, max_iterations=60,
    )  # fmt: skip
    assert found.asymmetry < 0.02 * LARGEST_ASYMMETRY
    assert math.isfinite(trace(products, products.like, products.dimension).mean)
    density(products, products.like, products.dimension)
