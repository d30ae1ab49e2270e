"""Anisotropy and CKA: closed forms, invariances, unbiasedness, bad input."""

import itertools
import math

import numpy as np
import pytest
import torch

import geomfast as gf
from tests import cases


def test_anisotropy_is_the_mean_over_pairs():
    x = cases.normal(2, 12, 5)
    units = torch.nn.functional.normalize(x.double(), dim=-1)
    for row in range(2):
        pairs = [float(a @ b) for a, b in itertools.combinations(units[row], 2)]
        found = gf.anisotropy(x)
        assert found.mean[row].item() == pytest.approx(sum(pairs) / len(pairs), rel=1e-9)
        left_out = []
        for i in range(12):
            rest = torch.cat([units[row, :i], units[row, i + 1 :]])
            pairs = [float(a @ b) for a, b in itertools.combinations(rest, 2)]
            left_out.append(sum(pairs) / len(pairs))
        jackknife = math.sqrt(11 * np.var(left_out))
        assert found.stderr[row].item() == pytest.approx(jackknife, rel=1e-9)


def test_anisotropy_of_known_directions():
    assert gf.anisotropy(torch.ones(5, 3)).mean.item() == pytest.approx(1.0)
    assert gf.anisotropy(torch.eye(6)).mean.item() == pytest.approx(0.0, abs=1e-15)
    simplex = torch.eye(6) - 1 / 6
    assert gf.anisotropy(simplex).mean.item() == pytest.approx(-1 / 5)
    scaled = torch.eye(6) * torch.tensor([1e-30, 1.0, 1e30, 2.0, 3.0, 4.0])[:, None]
    assert gf.anisotropy(scaled).mean.item() == pytest.approx(0.0, abs=1e-15)
    x = torch.eye(6)
    x[2] = 0.0
    assert math.isnan(gf.anisotropy(x).mean.item())


def by_definition(x: np.ndarray, y: np.ndarray, debiased: bool) -> float:
    """HSIC as its papers write it."""

    def hsic(k, m):
        n = len(k)
        if not debiased:
            h = np.eye(n) - 1 / n
            return np.trace(k @ h @ m @ h) / (n - 1) ** 2
        k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
        one = np.ones(n)
        first = np.trace(k @ m) + (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
        return (first - 2 / (n - 2) * (one @ k @ m @ one)) / (n * (n - 3))

    k, m = x @ x.T, y @ y.T
    return hsic(k, m) / math.sqrt(hsic(k, k) * hsic(m, m))


@pytest.mark.parametrize("debiased", [True, False])
@pytest.mark.parametrize("n", [4, 5, 40])
def test_cka_against_its_definition(debiased, n):
    x, y = cases.normal(n, 6).double(), cases.normal(n, 9, seed=1).double()
    y[:, :3] += x[:, :3]
    expected = by_definition(x.numpy(), y.numpy(), debiased)
    assert gf.cka(x, y, debiased=debiased).item() == pytest.approx(expected, rel=1e-9)


def test_cka_knows_one_representation_again():
    x = cases.normal(50, 7, dtype=torch.float64)
    same = 1e-4 * x @ cases.orthogonal(7, 12) + cases.normal(12, seed=3)
    for debiased in (True, False):
        assert gf.cka(x, same, debiased=debiased).item() == pytest.approx(1.0, abs=1e-9)
    # Not under any linear map, unlike canonical correlations.
    stretched = x * torch.tensor([100.0, 1, 1, 1, 1, 1, 1])
    assert gf.cka(x, stretched).item() < 0.6


def test_wide_representations_that_have_nothing_in_common():
    x = cases.normal(30, 40, 300)
    y = cases.normal(30, 40, 300, seed=1)
    plain, debiased = gf.cka(x, y, debiased=False), gf.cka(x, y)
    assert plain.mean().item() > 0.8
    error = debiased.std().item() / math.sqrt(30)
    assert abs(debiased.mean().item()) < 4 * error + 0.002


def test_cka_of_many_at_once():
    x, y = cases.normal(3, 1, 20, 5), cases.normal(4, 20, 8, seed=2)
    found = gf.cka(x, y)
    assert found.shape == (3, 4)
    assert found[2, 1].item() == pytest.approx(gf.cka(x[2, 0], y[1]).item(), rel=1e-9)


def test_cka_of_what_does_not_vary():
    x = cases.normal(20, 5)
    for flat in (torch.zeros(20, 3), torch.full((20, 3), 0.1), x[:1].expand(20, 5)):
        assert math.isnan(gf.cka(x, flat).item())


def test_bad_input():
    x = cases.normal(20, 5)
    with pytest.raises(ValueError, match=r"y of shape \(19, 5\) must have the same N"):
        gf.cka(x, x[1:])
    with pytest.raises(ValueError, match=r"y of shape .* has N = 3 samples; 4 or more"):
        gf.cka(x, x[:3])
    with pytest.raises(TypeError, match="debiased must be True or False"):
        gf.cka(x, x, debiased=None)
    with pytest.raises(TypeError, match="y must be a floating-point tensor, not list"):
        gf.cka(x, [1.0])
    bad = x.clone()
    bad[1, 2] = math.nan
    with pytest.raises(ValueError, match=r"y\[1, 2\] is nan"):
        gf.cka(x, bad)
    with pytest.raises(ValueError, match=r"x\[1, 2\] is nan"):
        gf.anisotropy(bad)
    with pytest.raises(ValueError, match="N >= 2"):
        gf.anisotropy(x[:1])
