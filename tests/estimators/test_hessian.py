"""Eigenvalues, trace and density of Hessians against matrices formed whole and closed forms."""

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import nn

import geomfast as gf
from geomfast.estimators.hessian import NotConverged
from tests.estimators.curvature.cases import build, cast, dense_hessian, made, planted

MODELS = tuple(build())


def exact_values(name):
    model, batch, loss = made(name)
    matrix = dense_hessian(model.double(), loss, cast(batch, torch.float64))
    return torch.linalg.eigvalsh(matrix).flip(0)


@pytest.mark.parametrize("name", MODELS)
def test_top_five_of_small_networks(name):
    model, batch, loss = made(name)
    found = gf.hessian_top_eigenvalues(model, loss, batch, k=5, tol=1e-3, max_iterations=400)
    exact = exact_values(name)[:5]
    assert found.converged
    torch.testing.assert_close(found.values, exact, rtol=1e-4, atol=1e-5 * exact[0].item())
    assert found.residuals.shape == (5,) and found.iterations <= 400


@pytest.mark.parametrize("name", ["mlp", "attention"])
def test_the_other_end_and_both(name):
    model, batch, loss = made(name, torch.float64)
    exact = exact_values(name)
    call: dict[str, Any] = {"tol": 1e-5, "max_iterations": 500}
    low = gf.hessian_top_eigenvalues(model, loss, batch, k=2, ends="smallest", **call)
    torch.testing.assert_close(low.values, exact[-2:], rtol=1e-4, atol=1e-6)
    both = gf.hessian_top_eigenvalues(model, loss, batch, k=2, ends="both", **call)
    torch.testing.assert_close(
        both.values, torch.cat([exact[:2], exact[-2:]]), rtol=1e-4, atol=1e-6
    )
    large = gf.hessian_top_eigenvalues(model, loss, batch, ends="magnitude", **call)
    largest = exact[exact.abs().argmax()][None]
    torch.testing.assert_close(large.values, largest, rtol=1e-4, atol=0.0)


def test_planted_spectrum():
    model = planted(torch.cat([torch.tensor([9.0, 7.0, 5.0]), torch.linspace(-2.0, 1.0, 60)]))
    found = gf.hessian_top_eigenvalues(model, lambda m, x: m(x), torch.ones(3, 1), k=3, tol=1e-8)
    torch.testing.assert_close(found.values, torch.tensor([9.0, 7.0, 5.0]).double())
    trace = gf.hessian_trace(model, lambda m, x: m(x), torch.ones(3, 1), probes=100)
    assert trace.mean == pytest.approx(21.0 - 30.0, rel=1e-6)  # 63 entries: exact


def test_linear_least_squares():
    """The Hessian of the mean of 1/2 (w.x - y)^2 is X^T X / n."""
    torch.manual_seed(0)
    x, y = torch.randn(50, 8).double(), torch.randn(50).double()
    model = nn.Linear(8, 1, bias=False).double()
    loss = lambda m, b: 0.5 * (m(b[0])[:, 0] - b[1]) ** 2  # noqa: E731
    exact = torch.linalg.eigvalsh(x.T @ x / 50).flip(0)
    for matrix in ("hessian", "gauss-newton"):
        found = gf.hessian_top_eigenvalues(model, loss, (x, y), k=8, tol=1e-8, matrix=matrix)
        torch.testing.assert_close(found.values, exact)


def test_logistic_regression():
    """X^T diag(p (1 - p)) X / n."""
    torch.manual_seed(0)
    x, y = torch.randn(60, 6).double(), torch.randint(0, 2, (60,)).double()
    model = nn.Linear(6, 1, bias=False).double()

    def loss(model, batch):
        return F.binary_cross_entropy_with_logits(model(batch[0])[:, 0], batch[1], reduction="none")

    p = torch.sigmoid(model(x)[:, 0]).detach()
    exact = x.T @ ((p * (1 - p))[:, None] * x) / 60
    found = gf.hessian_top_eigenvalues(model, loss, (x, y), k=3, tol=1e-8)
    torch.testing.assert_close(found.values, torch.linalg.eigvalsh(exact).flip(0)[:3])
    assert gf.hessian_trace(model, loss, (x, y)).mean == pytest.approx(exact.trace().item())


def test_trace_within_three_standard_errors():
    model, batch, loss = made("mlp", torch.float64)
    exact = exact_values("mlp").sum().item()
    within = 0
    for seed in range(200):
        found = gf.hessian_trace(model, loss, batch, seed=seed)
        within += abs(found.mean - exact) <= 3 * found.stderr
    assert within >= 190


def test_density_of_a_small_network():
    model, batch, loss = made("mlp", torch.float64)
    found = gf.hessian_density(model, loss, batch, probes=60, iterations=30)
    assert torch.trapezoid(found.density, found.grid).item() == pytest.approx(1.0, abs=1e-6)
    exact = exact_values("mlp")
    known = ~found.nodes.isnan()
    distance = stats.wasserstein_distance(
        found.nodes[known], exact, found.weights[known] / found.weights[known].sum()
    )
    assert distance < 0.05 * (exact[0] - exact[-1]).item()


def test_layers_apart():
    model, batch, loss = made("mlp", torch.float64)
    found = gf.hessian_top_eigenvalues(model, loss, batch, k=2, tol=1e-6, per_layer=True)
    exact = dense_hessian(model, loss, batch)
    assert list(found) == ["0", "2"]
    for name, part in (("0", slice(0, 30)), ("2", slice(30, None))):
        values = torch.linalg.eigvalsh(exact[part, part]).flip(0)[:2]
        torch.testing.assert_close(found[name].values, values, rtol=1e-4, atol=1e-8)
    only = gf.hessian_top_eigenvalues(model, loss, batch, k=2, tol=1e-6, params=["2.*"])
    torch.testing.assert_close(only.values, found["2"].values, rtol=1e-4, atol=1e-8)


def blocks(per_parameter: bool) -> dict[str, slice]:
    """Of made("mlp")."""
    if not per_parameter:
        return {"0": slice(0, 30), "2": slice(30, None)}
    ends = {"0.weight": 24, "0.bias": 30, "2.weight": 48, "2.bias": 51}
    return {
        name: slice(start, end)
        for (name, end), start in zip(ends.items(), [0, *ends.values()], strict=False)
    }


@pytest.mark.parametrize("matrix", ["hessian", "gauss-newton"])
@pytest.mark.parametrize("per_parameter", [False, True])
def test_traces_of_blocks(per_parameter, matrix):
    model, batch, loss = made("mlp", torch.float64)
    call = {"per_layer": not per_parameter, "per_parameter": per_parameter, "matrix": matrix}
    exact = dense_hessian(model, loss, batch)
    parts = blocks(per_parameter)
    if matrix == "hessian":
        every = gf.hessian_trace(model, loss, batch, probes=40, **call)  # blocks of 30: exact
        assert list(every) == list(parts)
        for name, part in parts.items():
            expected = exact[part, part].trace().item()
            assert every[name].mean == pytest.approx(expected, rel=1e-9), name
    some = gf.hessian_trace(model, loss, batch, probes=12, **call)
    for name, found in some.items():
        only = [name] if per_parameter else [f"{name}.*"]
        alone = gf.hessian_trace(model, loss, batch, params=only, matrix=matrix, probes=60).mean
        assert abs(found.mean - alone) <= 3 * found.stderr + 1e-9, name
    whole = gf.hessian_trace(model, loss, batch, probes=60, matrix=matrix).mean
    exactly = gf.hessian_trace(model, loss, batch, probes=60, **call)
    assert sum(found.mean for found in exactly.values()) == pytest.approx(whole, rel=1e-9)


@pytest.mark.parametrize("per_parameter", [False, True])
def test_densities_of_blocks(per_parameter):
    model, batch, loss = made("mlp", torch.float64)
    call = {"per_layer": not per_parameter, "per_parameter": per_parameter}
    every = gf.hessian_density(model, loss, batch, probes=40, iterations=30, **call)
    exact, parts = dense_hessian(model, loss, batch), blocks(per_parameter)
    assert list(every) == list(parts)
    for name, part in parts.items():
        values, found = torch.linalg.eigvalsh(exact[part, part]), every[name]
        assert torch.trapezoid(found.density, found.grid).item() == pytest.approx(1.0, abs=1e-6)
        known = ~found.nodes.isnan()
        weights = found.weights[known] / found.weights[known].sum()
        mean = (weights @ found.nodes[known]).item()
        span = (values[-1] - values[0]).item()
        chance = span / (40 * len(values)) ** 0.5  # of 40 random starts
        assert mean == pytest.approx(values.mean().item(), abs=0.03 * span + chance), name
        distance = stats.wasserstein_distance(found.nodes[known], values, weights)
        assert distance < 0.05 * span + chance, name


def test_only_one_kind_of_blocks():
    model, batch, loss = made("mlp")
    for measure in (gf.hessian_trace, gf.hessian_density):
        with pytest.raises(ValueError, match="per_layer and per_parameter are both True"):
            measure(model, loss, batch, per_layer=True, per_parameter=True)
        with pytest.raises(TypeError, match="per_layer must be True or False, not 'yes'"):
            measure(model, loss, batch, per_layer="yes")


def test_starting_near_saves_products_and_finds_the_same():
    model, batch, loss = made("gpt")
    call: dict[str, Any] = {"k": 1, "tol": 1e-3, "max_iterations": 300}
    first = gf.hessian_top_eigenvalues(model, loss, batch, **call)
    again = gf.hessian_top_eigenvalues(model, loss, batch, start=first.vectors, seed=1, **call)
    assert again.iterations <= first.iterations
    torch.testing.assert_close(first.values, again.values, rtol=1e-3, atol=0.0)
    # Another eigenvector is no trap.
    five = gf.hessian_top_eigenvalues(model, loss, batch, **{**call, "k": 5})
    trapped = gf.hessian_top_eigenvalues(model, loss, batch, start=five.vectors[3], **call)
    torch.testing.assert_close(first.values, trapped.values, rtol=1e-3, atol=0.0)


def test_starting_from_the_gradient_saves_products():
    """The gradient of least squares is H (w - minimum): the steeper, the more of it."""
    generator = torch.Generator().manual_seed(0)
    model = torch.nn.Linear(400, 1, bias=False, dtype=torch.float64)
    x = torch.randn(500, 400, generator=generator, dtype=torch.float64)
    batch = x * torch.arange(1, 401).double().pow(-0.3), torch.randn(500, generator=generator)

    def loss(model, batch):
        return (model(batch[0])[:, 0] - batch[1]).square()

    def products(**start):
        found = gf.hessian_top_eigenvalues(model, loss, batch, k=1, **start)
        exact = torch.linalg.eigvalsh(2 * batch[0].mT @ batch[0] / 500)[-1]
        torch.testing.assert_close(found.values[0], exact, rtol=1e-3, atol=0.0)
        return found.iterations

    random = [products(start=torch.randn(400, generator=generator)) for _ in range(5)]
    assert products() < min(random)


def test_a_matrix_of_low_rank_at_a_minimum():
    """No gradient to start from, and after one product every direction is flat."""
    model = torch.nn.Linear(400, 1, bias=False, dtype=torch.float64)
    x = torch.randn(1, 400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.nn.init.zeros_(model.weight)
    found = gf.hessian_top_eigenvalues(model, lambda m, b: m(b)[:, 0].square(), x)
    torch.testing.assert_close(found.values[0], 2 * x.square().sum(), rtol=1e-6, atol=0.0)
    assert found.converged and found.iterations < 15


def test_nothing_changes_and_the_seed_decides():
    model, batch, loss = made("attention")
    before, state = copy.deepcopy(model.state_dict()), torch.random.get_rng_state()
    first = gf.hessian_top_eigenvalues(model, loss, batch, max_iterations=300)
    again = gf.hessian_top_eigenvalues(model, loss, batch, max_iterations=300)
    assert torch.equal(first.values, again.values) and torch.equal(first.vectors, again.vectors)
    assert gf.hessian_trace(model, loss, batch) == gf.hessian_trace(model, loss, batch)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(p.grad is None for p in model.parameters()) and model.training
    with torch.no_grad():
        assert torch.equal(
            gf.hessian_top_eigenvalues(model, loss, batch, max_iterations=300).values, first.values
        )


# Bad input


def test_not_converged_is_said():
    model, batch, loss = made("gpt")
    with pytest.warns(NotConverged, match=r"not converged after 4 products.*tol is 1e-06"):
        found = gf.hessian_top_eigenvalues(model, loss, batch, k=3, tol=1e-6, max_iterations=4)
    assert not found.converged and found.iterations == 4 and (found.residuals > 0).all()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_names_its_batch(value):
    model, (x, y), loss = made("mlp")
    bad = x.clone()
    bad[2, 0] = 50.0

    def spoiled(model, batch):
        return torch.where(batch[0][:, 0] == 50.0, value, loss(model, batch))

    with pytest.raises(ValueError, match="loss of sample 2 of batch 1 is not finite"):
        gf.hessian_top_eigenvalues(model, spoiled, [(x, y), (bad, y)])


def test_a_product_that_is_not_finite_names_its_batch():
    model = nn.Linear(3, 1, bias=False)

    def loss(model, x):  # its second derivative at 0 is infinite
        return model(x)[:, 0].abs().pow(1.5) + 0.0 * model(x)[:, 0] ** 2

    x, zero = torch.randn(4, 3), torch.zeros(4, 3)
    with pytest.raises(ValueError, match="product with the Hessian is not finite: batch 1"):
        gf.hessian_top_eigenvalues(model, loss, iter((x, zero)))
    with pytest.raises(ValueError, match="product with the Hessian is not finite: batch 1"):
        both = iter((torch.randn(4, 30), torch.zeros(4, 30)))
        gf.hessian_trace(nn.Linear(30, 1, bias=False), lambda m, x: loss(m, x), both, probes=6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "k must be a whole number of 1 or more, not 0"),
        ({"k": 52}, "k = 52 eigenvalues of a matrix of side 51"),
        ({"tol": 0.0}, "tol must be positive, not 0.0"),
        ({"k": 5, "max_iterations": 4}, "max_iterations = 4 is less than k = 5"),
        ({"ends": "top"}, "ends must be one of largest, smallest, both, magnitude, not 'top'"),
        ({"matrix": "fisher"}, "matrix must be one of hessian, gauss-newton, not 'fisher'"),
        ({"start": torch.ones(3)}, "start has 3 entries, the parameters have 51"),
        ({"start": torch.zeros(51)}, "start must be finite and not zero"),
        ({"params": ["head.*"]}, "matches none of"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str):
    model, batch, loss = made("mlp")
    with pytest.raises(ValueError, match=message):
        gf.hessian_top_eigenvalues(model, loss, batch, **arguments)


def test_bad_data_and_models():
    model, batch, loss = made("mlp")
    with pytest.raises(ValueError, match="data holds no batch"):
        gf.hessian_top_eigenvalues(model, loss, [])
    with pytest.raises(ValueError, match="N = 0 samples; N >= 1 is needed"):
        gf.hessian_top_eigenvalues(model, loss, (batch[0][:0], batch[1][:0]))
    with pytest.raises(ValueError, match="must not be reduced"):
        gf.hessian_trace(model, lambda m, b: loss(m, b).mean(), batch)
    dropping = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.1))
    with pytest.raises(ValueError, match=r"dropout is on in 1 \(Dropout\)"):
        gf.hessian_trace(dropping, loss, batch)
    with pytest.raises(ValueError, match=r"dropout is on \(p = 0\.5\)"):
        gf.hessian_density(model, lambda m, b: F.dropout(loss(m, b)), batch)
    model.unused = nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match="parameter unused does not reach the loss"):
        gf.hessian_top_eigenvalues(model, loss, batch)
    with pytest.raises(ValueError, match="probes must be 6 or more, not 5"):
        gf.hessian_trace(model, loss, batch, probes=5)
    with pytest.raises(ValueError, match="iterations must be a whole number of 1 or more, not 0"):
        gf.hessian_density(model, loss, batch, iterations=0)
    with pytest.raises(ValueError, match="width must be positive, not -1"):
        gf.hessian_density(model, loss, batch, width=-1.0)
