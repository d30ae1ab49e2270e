"""Noise scale, alignment, norms and stiffness, against gradients taken one by one."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import geomfast as gf
from geomfast.estimators.gradient_statistics import statistics_of, stiffness_of
from tests import cases
from tests.estimators.models import loss

N = 16


def made() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)), cases.normal(N, 5)


def gradients(model: nn.Module, x: torch.Tensor, names: tuple[str, ...] = ()) -> np.ndarray:
    chosen = [p for name, p in model.named_parameters() if not names or name in names]
    rows = []
    for i in range(len(x)):
        found = torch.autograd.grad(loss(model, x[i : i + 1]).sum(), chosen)
        rows.append(torch.cat([g.flatten() for g in found]).double())
    return torch.stack(rows).numpy()


def noise_scale(g: np.ndarray) -> float:
    """tr(S) / |G|^2 with unbiased estimators of both."""
    variance = g.var(0, ddof=1).sum()
    return variance / ((g.mean(0) ** 2).sum() - variance / len(g))


def test_against_gradients_one_by_one():
    model, x = made()
    g = gradients(model, x)
    found = gf.gradient_statistics(model, loss, x)
    norms = np.linalg.norm(g, axis=1)
    units = g / norms[:, None]
    cosines = (units @ units.T)[~np.eye(N, dtype=bool)]
    assert found.samples == N
    assert found.norm == pytest.approx(np.linalg.norm(g.mean(0)), rel=1e-5)
    assert found.sample_norm == pytest.approx(norms.mean(), rel=1e-5)
    assert found.spread == pytest.approx(norms.std(ddof=1), rel=1e-5)
    assert found.alignment == pytest.approx(cosines.mean(), rel=1e-5)
    assert found.noise_scale == pytest.approx(noise_scale(g), rel=1e-4)
    left = [1 / noise_scale(np.delete(g, i, 0)) for i in range(N)]
    stderr = math.sqrt((N - 1) * np.var(left)) * noise_scale(g) ** 2
    assert found.noise_scale_stderr == pytest.approx(stderr, rel=1e-3)


def test_of_every_parameter_and_of_some():
    model, x = made()
    found = gf.gradient_statistics(model, loss, x, per_layer=True)
    assert list(found) == [name for name, _ in model.named_parameters()]
    for name, one in found.items():
        g = gradients(model, x, (name,))
        assert one.norm == pytest.approx(np.linalg.norm(g.mean(0)), rel=1e-5)
    some = gf.gradient_statistics(model, loss, x, params=["2.*"])
    g = gradients(model, x, ("2.weight", "2.bias"))
    assert some.norm == pytest.approx(np.linalg.norm(g.mean(0)), rel=1e-5)


def test_noise_scale_of_gaussian_gradients_within_its_error():
    n, d, mean, sigma = 200, 30, 0.5, 1.0
    expected = d * sigma**2 / (d * mean**2)
    inside = 0
    for seed in range(50):
        g = mean + sigma * cases.normal(n, d, seed=seed, dtype=torch.float64)
        found = statistics_of(g @ g.mT)
        inside += abs(found.noise_scale - expected) < 1.96 * found.noise_scale_stderr
    assert 43 <= inside <= 50


def test_gradients_that_all_agree_and_those_without_a_mean():
    g = torch.ones(8, 3, dtype=torch.float64)
    found = statistics_of(g @ g.mT)
    assert found.noise_scale == pytest.approx(0.0, abs=1e-12)
    assert found.alignment == pytest.approx(1.0) and found.spread == pytest.approx(0.0, abs=1e-7)
    g = torch.cat([torch.eye(4), -torch.eye(4)]).double()
    found = statistics_of(g @ g.mT)
    assert math.isnan(found.noise_scale) and math.isnan(found.noise_scale_stderr)
    assert found.norm == 0.0 and found.alignment == pytest.approx(-1 / 7)
    g[3] = 0.0
    assert math.isnan(statistics_of(g @ g.mT).alignment)
    nothing = statistics_of(torch.zeros(4, 4, dtype=torch.float64))
    assert nothing.norm == 0.0 and math.isnan(nothing.noise_scale)


def test_stiffness_is_the_mean_cosine_by_class():
    model, x = made()
    labels = torch.tensor([3, 1, 3, 3, 1, 1, 1, 3, 7, 1, 3, 1, 3, 3, 1, 1])
    found = gf.gradient_stiffness(model, loss, x, labels)
    assert found.classes == (1, 3, 7)
    units = gradients(model, x)
    units /= np.linalg.norm(units, axis=1)[:, None]
    cosines = units @ units.T
    different = ~np.eye(N, dtype=bool)
    same = labels.numpy()[:, None] == labels.numpy()
    assert found.within == pytest.approx(cosines[different & same].mean(), rel=1e-4)
    assert found.between == pytest.approx(cosines[~same].mean(), rel=1e-4)
    block = np.ix_(labels.numpy() == 1, labels.numpy() == 3)
    assert found.matrix[0, 1].item() == pytest.approx(cosines[block].mean(), rel=1e-4)
    assert found.matrix[1, 0].item() == pytest.approx(found.matrix[0, 1].item())
    assert math.isnan(found.matrix[2, 2].item())  # one sample has no pair
    one = gf.gradient_stiffness(model, loss, x, torch.zeros(N, dtype=torch.long))
    assert math.isnan(one.between) and one.within == pytest.approx(
        cosines[different].mean(), rel=1e-4
    )


def test_a_sample_without_gradient_leaves_the_other_classes_their_stiffness():
    g = cases.normal(8, 5, dtype=torch.float64)
    labels = torch.arange(8) % 4
    expected = stiffness_of(g @ g.mT, labels).matrix
    g[2] = 0.0
    found = stiffness_of(g @ g.mT, labels.to(torch.uint8))
    assert found.classes == (0, 1, 2, 3)
    others = torch.tensor([0, 1, 3])
    assert torch.allclose(found.matrix[others][:, others], expected[others][:, others])
    assert found.matrix[2].isnan().all() and found.matrix[:, 2].isnan().all()
    assert math.isnan(found.within) and math.isnan(found.between)


def test_bad_input():
    model, x = made()
    shuffled = torch.utils.data.DataLoader(x, batch_size=8, shuffle=True)
    with pytest.raises(ValueError, match="labels are not in the order of its samples"):
        gf.gradient_stiffness(model, loss, shuffled, torch.arange(N) % 2)
    with pytest.raises(TypeError, match=r"labels must be a tensor of integers, not torch\.float32"):
        gf.gradient_stiffness(model, loss, x, torch.ones(N))
    with pytest.raises(ValueError, match=r"labels must have shape \(16,\), one for each sample"):
        stiffness_of(torch.eye(16, dtype=torch.float64), torch.zeros(15, dtype=torch.long))
    with pytest.raises(TypeError, match="per_layer must be True or False"):
        gf.gradient_statistics(model, loss, x, per_layer="yes")
    with pytest.raises(ValueError, match=r"N >= 2|2 samples|2 or more"):
        gf.gradient_statistics(model, loss, x[:1])
