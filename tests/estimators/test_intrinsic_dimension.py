"""TwoNN: sets of known dimension, an independent implementation, copies, errors, bad input."""

import math

import numpy as np
import pytest
import torch

import geomfast as gf
from tests import cases


def uniform(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, d, dtype=torch.float64, generator=cases.generator(seed))


def by_definition(x: np.ndarray, fraction: float) -> float:
    """Equation 5 of Facco et al. 2017, with distances taken one by one."""
    distances = np.sort(np.linalg.norm(x[:, None] - x, axis=-1), axis=1)
    ratios = np.sort(np.log(distances[:, 2] / distances[:, 1]))
    n = len(x)
    kept = min(math.floor(fraction * n), n - 1)
    y = -np.log(1 - np.arange(1, kept + 1) / n)
    return float(ratios[:kept] @ y / (ratios[:kept] @ ratios[:kept]))


@pytest.mark.parametrize("d", [1, 2, 4])
def test_a_curved_set_has_its_dimension_whatever_space_it_lies_in(d):
    u = uniform(1000, d)
    x = torch.cat([u, u.square(), torch.sin(2 * u)], 1) @ cases.orthogonal(3 * d, 20)
    found = gf.two_nn(x)
    assert found.mean.item() == pytest.approx(d, abs=4 * found.stderr.item())
    assert found.stderr.item() < 0.1 * d and found.samples.item() == 1000


@pytest.mark.parametrize("fraction", [0.5, 0.9, 1.0])
def test_against_the_definition(fraction):
    x = torch.stack([cases.normal(80, 6, seed=seed, dtype=torch.float64) for seed in range(3)])
    found = gf.two_nn(x, fraction=fraction)
    expected = [by_definition(one.numpy(), fraction) for one in x]
    assert found.mean.tolist() == pytest.approx(expected, rel=1e-9)


def test_against_scikit_dimension():
    skdim = pytest.importorskip("skdim")
    for d in (2, 6):
        x = cases.normal(1000, d, dtype=torch.float64)
        expected = skdim.id.TwoNN().fit(x.numpy()).dimension_
        assert gf.two_nn(x).mean.item() == pytest.approx(expected, rel=1e-9)


def test_scale_rotation_and_shift_do_not_matter():
    x = cases.normal(120, 5, dtype=torch.float64)
    expected = gf.two_nn(x).mean.item()
    moved = 1e-3 * x @ cases.orthogonal(5, 5) + 7.0
    assert gf.two_nn(moved).mean.item() == pytest.approx(expected, rel=1e-6)
    assert gf.two_nn(1e200 * x).mean.item() == pytest.approx(expected, rel=1e-9)


def test_copies_count_once():
    x = cases.normal(100, 4)
    expected = gf.two_nn(x)
    order = torch.randperm(300, generator=cases.generator())
    rounded = x.repeat(3, 1)[order] * (1 + 1e-7 * cases.normal(300, 4))
    found = gf.two_nn(rounded)
    assert found.samples.item() == 100
    assert found.mean.item() == pytest.approx(expected.mean.item(), rel=1e-4)


def test_errors_are_those_of_fresh_samples():
    x = torch.stack([uniform(150, 3, seed) for seed in range(150)])
    found = gf.two_nn(x)
    spread = found.mean.std().item()
    assert found.stderr.mean().item() == pytest.approx(spread, rel=0.2)


@pytest.mark.parametrize("n", [2, 3, 19])
def test_too_few_distinct_samples_have_no_dimension(n):
    few = gf.two_nn(cases.normal(n, 3).repeat(4, 1))
    assert math.isnan(few.mean.item()) and math.isnan(few.stderr.item())
    assert few.samples.item() == n
    assert gf.two_nn(torch.zeros(30, 4)).samples.item() == 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_samples_all_equally_far_have_no_dimension(dtype):
    lattice = 0.1 * torch.cartesian_prod(*[torch.arange(10, dtype=torch.float64)] * 2)
    for x in (lattice if dtype is not torch.bfloat16 else 10 * lattice, torch.eye(30)):
        found = gf.two_nn(x.to(dtype))
        assert math.isnan(found.mean.item()) and math.isnan(found.stderr.item())
        assert found.samples.item() == len(x)


def test_samples_no_further_apart_than_rounding_have_no_dimension():
    x = cases.normal(200, 5)
    beside = torch.cat([x, torch.full((200, 1), 1e5)], 1)  # one feature above all others
    found = gf.two_nn(torch.stack([beside, torch.cat([x, torch.full((200, 1), 1e3)], 1)]))
    assert found.samples[0] < 200 and math.isnan(found.mean[0].item())
    assert found.mean[1].item() == pytest.approx(gf.two_nn(x).mean.item(), rel=1e-4)
    expected = by_definition(beside.double().numpy(), 0.9)
    assert gf.two_nn(beside.double()).mean.item() == pytest.approx(expected, rel=1e-6)


def test_bad_input():
    x = cases.normal(30, 3)
    with pytest.raises(ValueError, match="fraction must be above 0 and at most 1, not 0"):
        gf.two_nn(x, fraction=0)
    with pytest.raises(TypeError, match="x must be a floating-point tensor"):
        gf.two_nn(x.long())
    with pytest.raises(ValueError, match="N >= 2"):
        gf.two_nn(x[:1])
    x[4, 1] = math.inf
    with pytest.raises(ValueError, match=r"x\[4, 1\] is inf"):
        gf.two_nn(x)
    assert gf.two_nn(torch.empty(0, 30, 3)).mean.shape == (0,)
