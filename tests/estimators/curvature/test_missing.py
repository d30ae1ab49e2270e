"""Eigenvalues that come more than once, and others that a search from one vector does not see."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

import geomfast as gf
from geomfast.estimators.curvature.lanczos import Eigenpairs, eigenpairs, random_vector
from geomfast.estimators.hessian import NotConverged
from tests.estimators.curvature.cases import planted
from tests.estimators.curvature.test_lanczos import wanted


def search(matrix: Tensor, k: int, ends: str = "largest", **changes: Any) -> Eigenpairs:
    start = changes.pop("start", random_vector(matrix[0], len(matrix), 0))
    call: dict[str, Any] = {"tol": 1e-6, "max_iterations": 600, **changes}
    return eigenpairs(matrix.mv, start, k=k, ends=ends, **call)


def require_right(found: Eigenpairs, matrix: Tensor, k: int, ends: str) -> None:
    """Values against numpy's, residuals and orthonormality against their definitions."""
    exact = wanted(torch.linalg.eigvalsh(matrix.double()), ends, k)
    largest = torch.linalg.matrix_norm(matrix.double(), 2).item()
    rounding = 1e-11 if matrix.dtype == torch.float64 else 1e-5
    assert found.converged and found.complete
    values = found.values
    if ends == "magnitude":  # of one and its negative either is right
        values, exact = (x.abs().sort().values for x in (values, exact))
    torch.testing.assert_close(values, exact, rtol=1e-5, atol=rounding * largest)
    vectors = found.vectors.double()
    residuals = (matrix.double() @ vectors.mT - vectors.mT * found.values).norm(dim=0)
    # Two parts of a residual, whose angle is not known, are added as if it were a right one.
    assert (residuals <= 2**0.5 * found.residuals + rounding * largest).all()
    gram = vectors @ vectors.mT
    torch.testing.assert_close(gram, torch.eye(len(gram)).double(), rtol=0.0, atol=1e-5)


def block(*matrices: Tensor) -> Tensor:
    return torch.block_diag(*(matrix.double() for matrix in matrices))


def some(*values: float, others: int = 60, scale: float = 1.0) -> Tensor:
    rest = scale * torch.linspace(-0.9, 0.85, others, dtype=torch.float64)
    return torch.cat([torch.tensor(values, dtype=torch.float64), rest])


CASES = {
    "diagonal": torch.diag(torch.tensor([10.0, 10, 10, 9, 8.5, 8, 7, 5, 3, 2, 1, 0.5])),
    "twice": planted(some(3.0, 3.0, 2.0, -2.0, -2.0)).matrix,
    "more than wanted": planted(some(*[3.0] * 7, *[-3.0] * 6)).matrix,
    "nearly": planted(some(1.0, 1 - 1e-6, 1 - 2e-6, -1.0, -1 + 1e-6)).matrix,
    "null space": planted(torch.cat([torch.linspace(1.0, 2.0, 12), torch.zeros(100)])).matrix,
    "blocks": block(*[planted(some(2.0, 1.5, -1.5, others=9)).matrix] * 4),
    "one and its negative": block(*[torch.tensor([[0.0, 1.0], [1.0, 0.0]])] * 30),
    "large multiple of one": 7.0 * torch.eye(40).double(),
    "zero": torch.zeros(40, 40).double(),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("ends", ["largest", "smallest", "both", "magnitude"])
@pytest.mark.parametrize("k", [2, 3, 5])
@pytest.mark.parametrize("name", CASES)
def test_every_copy_is_found(name: str, k: int, ends: str, dtype: torch.dtype):
    matrix = CASES[name].to(dtype)
    for look_every in (1, 4):
        require_right(search(matrix, k, ends, look_every=look_every), matrix, k, ends)


def test_the_start_is_orthogonal_to_a_wanted_eigenvector():
    matrix = torch.diag(some(5.0, 4.0, 3.0, 2.0))
    start = torch.ones(len(matrix)).double()
    start[1] = 0.0  # nothing of the second
    found = search(matrix, 3, start=start)
    torch.testing.assert_close(found.values, torch.tensor([5.0, 4.0, 3.0]).double())
    # Nor of anything but one block of two.
    matrix = block(planted(some(2.0)).matrix, planted(some(2.0, 1.9)).matrix)
    start = torch.cat([random_vector(matrix[0], 61, 1), torch.zeros(62).double()])
    found = search(matrix, 3, start=start)
    torch.testing.assert_close(found.values, torch.tensor([2.0, 2.0, 1.9]).double())


def test_a_copy_of_the_only_wanted_one_is_not_asked_for():
    """Nor where the space of the start is exhausted after one product, and all is to be found."""
    matrix = planted(some(3.0, 3.0)).matrix
    found = search(matrix, 1)
    products = []
    start = random_vector(matrix[0], len(matrix), 0)
    simple = planted(some(3.0, 2.0, others=60)).matrix
    eigenpairs(
        lambda v: products.append(1) or simple @ v, start, k=1, ends="largest", tol=1e-6,
        max_iterations=100,
    )  # fmt: skip
    assert found.complete and abs(found.iterations - len(products)) <= 3
    start = torch.zeros(62).double()
    start[4] = 1.0
    matrix = torch.diag(some(9.0, 8.0))
    found = search(matrix, 1, start=start)
    assert found.values[0].item() == pytest.approx(9.0, rel=1e-9)


def test_restarts_while_it_is_confirmed(monkeypatch: pytest.MonkeyPatch):
    """A basis of few vectors is full several times before a second copy has come up."""
    monkeypatch.setattr("geomfast.estimators.curvature.lanczos._LARGEST_BASIS", 10)
    spectrum = torch.cat([torch.tensor([1.05, 1.05, 1.05]), torch.linspace(0.0, 1.0, 400)])
    matrix = planted(spectrum).matrix
    for dtype in (torch.float64, torch.float32):
        found = search(matrix.to(dtype), 2, tol=1e-5)
        require_right(found, matrix.to(dtype), 2, "largest")
        found = search(matrix.to(dtype), 3, tol=1e-5)
        require_right(found, matrix.to(dtype), 3, "largest")


def test_too_few_products_to_confirm():
    matrix = planted(some(5.0, 4.0, others=200)).matrix
    alone = search(matrix, 2, tol=1e-3)
    few = search(matrix, 2, tol=1e-3, max_iterations=alone.iterations - 1)
    assert alone.converged and not few.converged and not few.complete
    torch.testing.assert_close(few.values, alone.values, rtol=1e-5, atol=0.0)
    model = planted(some(5.0, 4.0, others=200))
    with pytest.warns(NotConverged, match="it was not confirmed that none is missing"):
        gf.hessian_top_eigenvalues(
            model, lambda m, x: m(x), torch.ones(2, 1), k=2, max_iterations=few.iterations
        )


@pytest.mark.parametrize("seed", range(12))
def test_random_matrices_with_copies(seed: int):
    generator = torch.Generator().manual_seed(seed)

    def drawn(n: int) -> Tensor:
        return torch.randn(n, generator=generator, dtype=torch.float64)

    copies = torch.randint(1, 5, (6,), generator=generator)
    spectrum = torch.cat([drawn(6).repeat_interleave(copies), 0.3 * drawn(10 + 20 * (seed % 4))])
    matrix = planted(spectrum).matrix.to(torch.float32 if seed % 3 == 0 else torch.float64)
    for ends in ("largest", "smallest", "both", "magnitude"):
        for k in (2, 4):
            require_right(search(matrix, k, ends, seed=seed), matrix, k, ends)


# Hessians


def squared_error(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return (model(batch[0]) - batch[1]).square().sum(1)


def exact_block(model: nn.Module, loss: Any, batch: Any, names: list[str]) -> Tensor:
    """(P,) eigenvalues of the Hessian by some parameters, by torch's own functional one."""
    own = dict(model.named_parameters())
    shapes = [own[name].shape for name in names]

    def mean(flat: Tensor) -> Tensor:
        parts = flat.split([shape.numel() for shape in shapes])
        given = {n: p.view(s) for n, p, s in zip(names, parts, shapes, strict=True)}
        return loss(lambda x: functional_call(model, given, (x,)), batch).mean()

    at = torch.cat([own[name].detach().flatten() for name in names])
    hessian = torch.autograd.functional.hessian(mean, at)
    assert isinstance(hessian, Tensor)
    return torch.linalg.eigvalsh(hessian).flip(0)


def test_a_linear_layer_with_squared_error():
    """Every output has the same Hessian: each value comes as often as there are outputs."""
    torch.manual_seed(0)
    model = nn.Linear(5, 3, bias=False).double()
    batch = torch.randn(20, 5).double(), torch.randn(20, 3).double()
    found = gf.hessian_top_eigenvalues(model, squared_error, batch, k=3, tol=1e-8)
    exact = torch.linalg.eigvalsh(2 * batch[0].mT @ batch[0] / 20).flip(0)
    assert found.converged
    torch.testing.assert_close(found.values, exact[:1].expand(3))
    assert isinstance(model.weight, Tensor)
    torch.testing.assert_close(
        exact_block(model, squared_error, batch, ["weight"]), exact.repeat_interleave(3)
    )
    all_of_them = gf.hessian_top_eigenvalues(model, squared_error, batch, k=15, tol=1e-8)
    torch.testing.assert_close(all_of_them.values, exact.repeat_interleave(3))


@pytest.mark.parametrize("matrix", ["hessian", "gauss-newton"])
def test_linear_heads_layer_by_layer(matrix: Any):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5)).double()
    batch = torch.randn(30, 4).double(), torch.randn(30, 5).double()
    found = gf.hessian_top_eigenvalues(
        model, squared_error, batch, k=6, tol=1e-7, per_layer=True, params=["2.*"], matrix=matrix
    )
    exact = exact_block(model, squared_error, batch, ["2.weight", "2.bias"])
    assert found["2"].converged
    torch.testing.assert_close(found["2"].values, exact[:6], rtol=1e-6, atol=0.0)
    assert (exact[:5] - exact[0]).abs().max() < 1e-9  # five times the same


def test_zeros_at_the_small_end():
    torch.manual_seed(2)
    model = nn.Linear(30, 2, bias=False).double()
    batch = torch.randn(8, 30).double(), torch.randn(8, 2).double()
    found = gf.hessian_top_eigenvalues(model, squared_error, batch, k=3, ends="smallest")
    assert found.converged
    torch.testing.assert_close(found.values, torch.zeros(3).double(), rtol=0.0, atol=1e-9)
