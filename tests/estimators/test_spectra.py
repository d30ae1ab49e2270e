"""RankMe, effective rank and singular values: closed forms, invariances, bad input."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geomfast.estimators.spectra import effective_rank, rankme, singular_values
from tests import cases


@pytest.mark.parametrize(("n", "d"), [(2, 9), (40, 64), (128, 200)])
def test_orthogonal_rows_have_full_rank(n, d):
    assert rankme(cases.orthogonal(n, d)).item() == pytest.approx(n, rel=1e-12)


@pytest.mark.parametrize("rank", [1, 2, 17, 60])
def test_equal_singular_values_give_their_number(rank):
    assert rankme(cases.equal_rank(rank, 60, 90)).item() == pytest.approx(rank, rel=2e-5)


@pytest.mark.parametrize("ratio", [0.5, 0.8, 0.95])
def test_geometric_spectrum(ratio):
    # Entropy of a truncated geometric distribution with K terms.
    k = 60
    p = [ratio**i * (1 - ratio) / (1 - ratio**k) for i in range(k)]
    expected = math.exp(-sum(q * math.log(q) for q in p))
    x = cases.geometric(ratio, k, 80)
    assert rankme(x).item() == pytest.approx(expected, rel=2e-5)
    spectrum = torch.tensor([ratio**i for i in range(k)], dtype=torch.float64)
    assert effective_rank(spectrum).item() == pytest.approx(expected, rel=1e-13)


def test_published_eps_inflates_rank_two():
    x = torch.zeros(512, 512)
    x[0, 0] = x[1, 1] = 1.0
    assert rankme(x).item() == pytest.approx(2.0, rel=1e-12)
    assert rankme(x, eps=1e-5).item() == pytest.approx(2.121, abs=5e-4)


def test_zero():
    assert rankme(torch.zeros(3, 4, 5)).tolist() == [0.0] * 3
    assert rankme(torch.zeros(4, 5), eps=1e-5).item() == 0.0
    assert effective_rank(torch.zeros(2, 3)).tolist() == [0.0, 0.0]
    mixed = torch.stack([torch.zeros(3), torch.ones(3)])
    assert effective_rank(mixed).tolist() == pytest.approx([0.0, 3.0])


def test_center_removes_the_mean():
    x = cases.normal(50, 8, dtype=torch.float64)
    expected = rankme(x - x.mean(0))
    assert rankme(x + 1000.0, center=True).item() == pytest.approx(expected.item(), rel=1e-9)
    assert rankme(x + 1000.0).item() < 1.2
    assert rankme(torch.ones(5, 7), center=True).item() == 0.0


def test_center_of_float32_is_exact_to_float64():
    x = cases.normal(40, 10) + 3e4
    expected = rankme(x.double(), center=True)
    assert rankme(x, center=True).item() == expected.item()


def test_rankme_is_the_effective_rank_of_the_singular_values():
    x = cases.normal(2, 3, 20, 30)
    assert torch.equal(rankme(x), effective_rank(singular_values(x)))
    assert rankme(x).shape == (2, 3)


@pytest.mark.parametrize("scale", [1e-320, 1e-200, 1.0, 1e307])
def test_effective_rank_of_any_scale(scale):
    values = torch.full((100,), scale, dtype=torch.float64)
    assert effective_rank(values).item() == pytest.approx(100.0, rel=1e-12)


def test_effective_rank_of_integers_in_half_precision():
    assert effective_rank(torch.ones(300, dtype=torch.bfloat16)).item() == pytest.approx(300.0)


sizes = st.tuples(st.integers(2, 24), st.integers(1, 24), st.integers(0, 2**31))


@settings(max_examples=40, deadline=None)
@given(sizes)
def test_order_of_rows_does_not_matter(size):
    n, d, seed = size
    x = cases.normal(n, d, dtype=torch.float64, seed=seed)
    order = torch.randperm(n, generator=cases.generator(seed))
    torch.testing.assert_close(rankme(x[order]), rankme(x), rtol=1e-9, atol=0.0)


@settings(max_examples=40, deadline=None)
@given(sizes)
def test_rotation_does_not_matter(size):
    n, d, seed = size
    x = cases.normal(n, d, dtype=torch.float64, seed=seed)
    rotated = cases.orthogonal(n, n, seed + 1) @ x @ cases.orthogonal(d, d, seed + 2)
    torch.testing.assert_close(rankme(rotated), rankme(x), rtol=1e-9, atol=0.0)


@settings(max_examples=40, deadline=None)
@given(sizes, st.integers(-300, 300), st.floats(1.0, 2.0))
def test_scale_does_not_matter(size, exponent, factor):
    n, d, seed = size
    x = cases.normal(n, d, dtype=torch.float64, seed=seed)
    # A power of two changes no bit; another factor changes the rounding of the input only.
    assert rankme(x * 2.0**exponent).item() == rankme(x).item()
    torch.testing.assert_close(rankme(x * factor), rankme(x), rtol=1e-9, atol=0.0)


@settings(max_examples=40, deadline=None)
@given(sizes)
def test_bounds_and_energy(size):
    n, d, seed = size
    x = cases.normal(n, d, dtype=torch.float64, seed=seed)
    assert 1.0 - 1e-12 <= rankme(x).item() <= min(n, d) * (1 + 1e-12)
    energy = singular_values(x).square().sum()
    torch.testing.assert_close(energy, x.square().sum(), rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("function", [singular_values, rankme])
def test_bad_matrices(function):
    with pytest.raises(ValueError, match=r"\(\.\.\., N, d\), not \(3,\)"):
        function(torch.ones(3))
    with pytest.raises(ValueError, match=r"\(4, 1, 3\).*N = 1"):
        function(torch.ones(4, 1, 3))
    with pytest.raises(ValueError, match=r"\(3, 0\).*d = 0"):
        function(torch.ones(3, 0))
    with pytest.raises(TypeError, match=r"torch\.int64"):
        function(torch.ones(3, 3, dtype=torch.long))
    with pytest.raises(TypeError, match="complex64"):
        function(torch.ones(3, 3, dtype=torch.complex64))
    with pytest.raises(TypeError, match="list"):
        function([[1.0, 2.0]])


@pytest.mark.parametrize("center", [False, True])
def test_not_finite_names_the_entry(center):
    x = torch.ones(2, 4, 3)
    x[1, 2, 0] = float("nan")
    with pytest.raises(ValueError, match=r"\(2, 4, 3\).*x\[1, 2, 0\] is nan"):
        rankme(x, center=center)


@pytest.mark.parametrize("eps", [-1e-9, float("nan"), float("inf")])
def test_bad_eps(eps):
    with pytest.raises(ValueError, match=f"eps.*{eps}"):
        rankme(torch.eye(3), eps=eps)


def test_bad_spectra():
    with pytest.raises(ValueError, match=r"values\[1, 2\] is -1\.0"):
        effective_rank(torch.tensor([[1.0, 0.0, 2.0], [1.0, 1.0, -1.0]]))
    with pytest.raises(ValueError, match=r"values\[0\] is nan"):
        effective_rank(torch.tensor([float("nan"), 1.0]))
    with pytest.raises(ValueError, match=r"\(2, 0\)"):
        effective_rank(torch.ones(2, 0))
    with pytest.raises(ValueError, match=r"\(\)"):
        effective_rank(torch.tensor(1.0))
    with pytest.raises(TypeError, match="int64"):
        effective_rank(torch.ones(3, dtype=torch.long))


def test_empty_batch():
    assert rankme(torch.ones(0, 4, 3)).shape == (0,)
    assert effective_rank(torch.ones(0, 3)).shape == (0,)


def test_nothing_else_changes():
    x = cases.normal(5, 6).requires_grad_()
    before, state = x.detach().clone(), torch.random.get_rng_state()
    assert not rankme(x, center=True).requires_grad
    assert not singular_values(x).requires_grad
    assert not effective_rank(x.square()).requires_grad
    assert torch.equal(x.detach(), before) and x.grad is None
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.get_default_dtype() == torch.float32
