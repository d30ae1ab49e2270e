"""Eigenpairs, trace and density of matrices with planted spectra."""

import pytest
import torch
from scipy import stats

from geomfast.estimators.curvature import lanczos
from geomfast.estimators.curvature.density import spectral_density
from geomfast.estimators.curvature.lanczos import (
    ENDS,
    eigenpairs,
    one_start,
    random_start,
    random_vector,
)
from geomfast.estimators.curvature.trace import hutch_plus_plus
from tests.estimators.curvature.cases import planted

SPECTRA = {
    "few large": torch.cat([torch.tensor([100.0, 50.0, 49.9, -30.0]), torch.linspace(-1, 1, 200)]),
    "repeated": torch.tensor([5.0, 5.0, 5.0] + [1.0] * 30),
    "tiny": torch.tensor([3.0, 2.0, 1.0, 0.0, -1.5]),
    "one": torch.tensor([2.0]),
    "zero": torch.zeros(50),
    "rank two": torch.tensor([4.0, 3.0] + [0.0] * 60),
    "decay": 2.0 ** -torch.arange(40.0),
}


def wanted(values, ends, k):
    values = values.sort(descending=True).values
    if ends == "largest":
        return values[:k]
    if ends == "smallest":
        return values[-k:]
    if ends == "magnitude":
        return values[values.abs().argsort(descending=True)[:k]].sort(descending=True).values
    return torch.cat([values[:k], values[-k:]]) if 2 * k <= len(values) else values


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("ends", ENDS)
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("look_every", [1, 4])
def test_planted_spectra(name, k, ends, dtype, look_every):
    spectrum = SPECTRA[name]
    if k > len(spectrum):
        pytest.skip("more than there are")
    matrix = planted(spectrum).matrix.to(dtype)
    calls = []

    def product(v):
        calls.append(1)
        return matrix @ v

    found = eigenpairs(
        product, random_vector(matrix[0], len(spectrum), 0), k=k, ends=ends, tol=1e-4,
        max_iterations=400, look_every=look_every,
    )  # fmt: skip
    expected = wanted(spectrum.double(), ends, k)
    largest = spectrum.abs().max().item()
    torch.testing.assert_close(found.values, expected, rtol=1e-4, atol=2e-5 * largest + 1e-9)
    assert found.converged and found.iterations == len(calls)
    exact = matrix.double() @ found.vectors.double().mT - found.vectors.double().mT * found.values
    excess = exact.norm(dim=0) - found.residuals
    assert (excess <= 1e-5 * largest).all()
    assert (excess < -1e-5 * largest).sum() <= 1  # the outermost pair alone is bettered at the end
    identity = torch.eye(len(expected), dtype=dtype)
    torch.testing.assert_close(found.vectors @ found.vectors.mT, identity, rtol=0.0, atol=1e-5)


@pytest.mark.parametrize("ends", ["largest", "smallest", "magnitude"])
def test_last_step_of_the_outermost_pair(ends):
    """(A - shift) / (value - shift) is at most 1/10 on the rest, and so is what becomes of r."""
    outermost = torch.tensor([-10.0 if ends == "smallest" else 10.0])
    matrix = planted(torch.cat([outermost, torch.linspace(-1.0, 1.0, 200)])).matrix
    start = random_vector(matrix[0], len(matrix), 0)
    found = eigenpairs(lambda v: matrix @ v, start, k=1, ends=ends, tol=1e-2, max_iterations=100)
    residual = (matrix @ found.vectors[0] - found.values[0] * found.vectors[0]).norm()
    assert found.residuals[0] > 1e-3  # what is bettered is no rounding
    assert residual <= 0.1 * found.residuals[0]


def test_stays_orthogonal_through_restarts():
    spectrum = torch.cat([torch.tensor([10.0]), torch.linspace(0.0, 9.9, 2000)])
    matrix = planted(spectrum).matrix.float()
    start = random_vector(matrix[0], len(spectrum), 0)
    found = eigenpairs(
        lambda v: matrix @ v, start, k=4, ends="largest", tol=1e-3, max_iterations=400
    )
    assert found.converged and found.iterations > 80  # restarted: 60 vectors are kept
    exact = spectrum.sort(descending=True).values[:4].double()
    torch.testing.assert_close(found.values, exact, rtol=1e-4, atol=0.0)


def test_too_few_products_say_so():
    matrix = planted(torch.linspace(0.0, 1.0, 300)).matrix
    start = random_vector(matrix[0], 300, 0)
    found = eigenpairs(lambda v: matrix @ v, start, k=2, ends="largest", tol=1e-6, max_iterations=9)
    assert not found.converged and found.iterations == 9
    exact = torch.linalg.eigvalsh(matrix)
    for value, residual in zip(found.values, found.residuals, strict=True):
        assert (exact - value).abs().min() <= residual  # an eigenvalue lies within the residual


def test_trace_is_within_its_error():
    generator = torch.Generator().manual_seed(0)
    matrix = planted(torch.randn(300, generator=generator) + 0.3).matrix
    like, exact = matrix[0], matrix.trace().item()
    within = 0
    for seed in range(200):
        found = hutch_plus_plus(lambda v: matrix @ v, like, 300, 30, seed)
        assert found.products == 30
        within += abs(found.mean - exact) <= 3 * found.stderr
    assert within >= 190


@pytest.mark.parametrize("name", ["few large", "rank two", "tiny", "zero"])
def test_trace_where_little_is_random(name):
    matrix = planted(SPECTRA[name]).matrix
    found = hutch_plus_plus(lambda v: matrix @ v, matrix[0], len(matrix), 30, 0)
    exact = SPECTRA[name].double().sum().item()
    assert abs(found.mean - exact) <= 4 * found.stderr + 1e-12


def test_density_of_a_known_spectrum():
    generator = torch.Generator().manual_seed(0)
    spectrum = torch.cat(
        [torch.rand(250, generator=generator), 5 + torch.rand(50, generator=generator)]
    )
    matrix = planted(spectrum).matrix
    found = spectral_density(lambda v: matrix @ v, matrix[0], 300, probes=20, iterations=30, seed=0)
    assert torch.trapezoid(found.density, found.grid).item() == pytest.approx(1.0, abs=1e-6)
    torch.testing.assert_close(found.weights.sum(1), torch.ones(20).double())
    distance = stats.wasserstein_distance(
        found.nodes.flatten(), spectrum, found.weights.flatten() / 20
    )
    assert distance < 0.15  # of a span of 6; the weight of the upper group has 5% of error
    upper = found.grid > 3
    share = torch.trapezoid(found.density * upper, found.grid).item()
    error = torch.trapezoid(found.stderr * upper, found.grid).item()
    assert abs(share - 1 / 6) <= 3 * error and error < 0.1


def test_density_without_room_for_a_basis(monkeypatch):
    matrix = planted(torch.linspace(0.0, 1.0, 200)).matrix
    call = lambda: spectral_density(  # noqa: E731
        lambda v: matrix @ v, matrix[0], 200, probes=3, iterations=20, seed=0, width=0.05
    )
    kept = call()
    monkeypatch.setattr("geomfast.estimators.curvature.density.BASIS_BYTES", 0)
    torch.testing.assert_close(call().density, kept.density, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", ["zero", "one", "rank two", "repeated"])
def test_density_of_few_values(name):
    matrix = planted(SPECTRA[name]).matrix
    found = spectral_density(
        lambda v: matrix @ v, matrix[0], len(matrix), probes=2, iterations=10, seed=0
    )
    assert torch.trapezoid(found.density, found.grid).item() == pytest.approx(1.0, abs=1e-6)
    assert found.density.isfinite().all()


def test_a_width_that_the_grid_cannot_show():
    matrix = planted(torch.linspace(0.0, 1.0, 20)).matrix
    with pytest.raises(ValueError, match="width 1e-05 is too narrow"):
        spectral_density(
            lambda v: matrix @ v, matrix[0], 20, probes=1, iterations=5, seed=0, width=1e-5
        )


def test_random_numbers_are_drawn_once_and_nothing_stays(monkeypatch):
    drawn = []

    def draw(like, dimension, seed):
        drawn.append((dimension, seed, like.dtype))
        return random_vector(like, dimension, seed)

    monkeypatch.setattr(lanczos, "random_vector", draw)
    like = torch.empty(0)
    with one_start():
        starts = [random_start(like, 50, 3) for _ in range(4)]
        assert len(drawn) == 1
        assert all(torch.equal(start, random_vector(like, 50, 3)) for start in starts)
        for wanted in ((50, 4, like.dtype), (51, 4, like.dtype), (51, 4, torch.float64)):
            found = random_start(like.to(wanted[2]), *wanted[:2])
            assert torch.equal(found, random_vector(like.to(wanted[2]), *wanted[:2]))
            assert drawn[-1] == wanted
    assert len(drawn) == 4
    assert lanczos._held.drawn is None
    random_start(like, 50, 3), random_start(like, 50, 3)
    assert len(drawn) == 6


def test_random_numbers_that_do_not_fit_are_drawn_each_time(monkeypatch):
    monkeypatch.setattr(lanczos, "HELD_BYTES", 600)
    like, calls = torch.empty(0), []
    with one_start():
        first = random_start(like, 100, 0)
        assert random_start(like, 100, 0) is first
        for _ in range(2):
            lanczos.drawn_once("other", lambda: calls.append(1) or torch.zeros(100))
        assert len(calls) == 2
        assert random_start(like, 100, 0) is first


@pytest.mark.parametrize(
    "search",
    [
        lambda product, like, n: (
            eigenpairs(
                product, random_start(like, n, 0), k=2, ends="largest", tol=1e-6, max_iterations=50
            ).values
        ),
        lambda product, like, n: (
            spectral_density(product, like, n, probes=2, iterations=9, seed=1).density
        ),
        lambda product, like, n: torch.tensor(hutch_plus_plus(product, like, n, 12, 5).mean),
    ],
    ids=["eigenpairs", "density", "trace"],
)
def test_a_second_search_finds_its_random_numbers_as_they_were(search):
    matrix = planted(SPECTRA["few large"]).matrix
    alone = search(matrix.mv, matrix[0], len(matrix))
    with one_start():
        for _ in range(2):
            assert torch.equal(search(matrix.mv, matrix[0], len(matrix)), alone)
