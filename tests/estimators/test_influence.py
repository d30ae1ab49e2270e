"""Influences against the exact covariances of a Gaussian posterior, and against devinterp."""

import pytest
import torch

import geomfast as gf
from geomfast.estimators.sampling.covariance import batching, covariance
from geomfast.estimators.sampling.kept import SampledLosses
from tests import cases
from tests.estimators.sampling.gaussian import Parted, queries, regression, squared

EXACT = regression()
DATA = (EXACT.x.float(), EXACT.y.float())
OTHERS = queries()
# Steps with momentum and all of the data have no bias on a quadratic.
CHAINS = {
    "lr": 0.15, "momentum": 0.2, "nbeta": 8.0, "localization": 2.0, "chains": 8, "burn_in": 50,
}  # fmt: skip


def model():
    return Parted(EXACT.center.float(), 2)


def series(chains=3, draws=40, samples=5, seed=0):
    """Losses (C, D, N) that hang together."""
    own = cases.normal(chains, draws, samples, dtype=torch.float64, seed=seed)
    return own + cases.normal(chains, draws, 1, dtype=torch.float64, seed=99)


def kept(**losses):
    return SampledLosses.of({"data": series(), **losses}, nbeta=10.0, samples=20)


@pytest.fixture(scope="module")
def found():
    asked = (OTHERS[0].float(), OTHERS[1].float())
    return gf.influence(model(), squared, DATA, queries=asked, draws=600, **CHAINS)


def test_covariances_are_those_of_the_gaussian_posterior(found):
    exact = EXACT.covariances(OTHERS, (EXACT.x, EXACT.y))
    assert found.covariance.shape == found.covariance_stderr.shape == (5, 10)
    away = (found.covariance - exact) / found.covariance_stderr
    # 50 of them, which hang together: none beyond 3.5 errors, and errors that are no larger than
    # needed.
    assert away.abs().max() < 3.0 and away.square().mean().sqrt() < 1.5
    assert (found.covariance_stderr / exact.diagonal().abs().mean()).mean() < 0.2
    own = EXACT.covariances((EXACT.x, EXACT.y), (EXACT.x, EXACT.y)).diagonal()
    asked = EXACT.covariances(OTHERS, OTHERS).diagonal()
    away = found.correlation - exact / (asked[:, None] * own).sqrt()
    away /= found.correlation_stderr
    assert away.abs().max() < 3.0 and away.square().mean().sqrt() < 1.5
    assert found.verdict.startswith(("converged", "usable"))
    assert found.run.verdict.startswith("bound by localization")


def test_influence_is_the_derivative_by_a_samples_weight(found):
    """Of the exact mean loss, by automatic differentiation."""
    n, d = EXACT.x.shape

    def losses(weights):
        x = EXACT.x * weights[:, None]
        precision = 8.0 * x.T @ EXACT.x / n + 2.0 * torch.eye(d, dtype=torch.float64)
        mean = torch.linalg.solve(precision, 8.0 * x.T @ EXACT.y / n + 2.0 * EXACT.center)
        spread = (OTHERS[0] @ torch.linalg.inv(precision) * OTHERS[0]).sum(1)
        return 0.5 * ((OTHERS[0] @ mean - OTHERS[1]).square() + spread)

    exact = torch.autograd.functional.jacobian(losses, torch.ones(n, dtype=torch.float64))
    away = (found.influence - exact) / found.influence_stderr
    assert away.abs().max() < 3.0 and away.square().mean().sqrt() < 1.5


def test_errors_know_of_autocorrelation():
    """Errors are as large as the spread of estimates over independent runs, not smaller."""
    runs, draws, keep = 200, 300, 0.9
    noise = cases.normal(runs, 4, draws, 2, dtype=torch.float64)
    x = torch.empty_like(noise)
    x[:, :, 0] = noise[:, :, 0]
    for t in range(1, draws):
        x[:, :, t] = keep * x[:, :, t - 1] + (1 - keep**2) ** 0.5 * noise[:, :, t]
    found = [covariance(one, one, batching(one)) for one in x]
    for name in ("covariance", "correlation"):
        values = torch.stack([getattr(one, name)[0, 1] for one in found])
        errors = torch.stack([getattr(one, f"{name}_stderr")[0, 1] for one in found])
        assert abs(values.mean()) < 4 * values.std() / runs**0.5
        assert ((values / errors).abs() < 1.96).double().mean() > 0.9
        assert errors.mean() < 1.5 * values.std()


def test_chains_that_disagree_widen_errors():
    x = series(4, 200, 3)
    apart = x + torch.tensor([-3.0, -1.0, 1.0, 3.0])[:, None, None]
    near, far = (
        gf.influence_from_losses(SampledLosses.of({"data": y}, nbeta=1.0)) for y in (x, apart)
    )
    assert near.verdict.startswith(("converged", "usable"))
    assert far.verdict.startswith("too few draws: R-hat") and far.rhat > 1.5
    assert (far.covariance_stderr > 3 * near.covariance_stderr).all()


def test_tokens():
    losses = cases.normal(2, 30, 3, 4, dtype=torch.float64)
    initial = torch.zeros(3, 4)
    initial[1, 2:] = losses[:, :, 1, 2:] = torch.nan
    first = SampledLosses.of(
        {"data": series(2, 30), "text": losses}, nbeta=1.0, initial={"text": initial}
    )
    by_token = gf.influence_from_losses(first, queries="text", tokens=True)
    assert by_token.covariance.shape == (3, 4, 5)
    assert by_token.covariance[1, 2:].isnan().all() and by_token.covariance.isnan().sum() == 10
    # A sample's is the mean of its tokens'.
    whole = gf.influence_from_losses(first, queries="text")
    torch.testing.assert_close(whole.covariance, by_token.covariance.nanmean(1))


def test_diverged_chains_do_not_count():
    x = series(4)
    with_lost = x.clone()
    with_lost[2, 7:] = torch.nan
    found = gf.influence_from_losses(SampledLosses.of({"data": with_lost}, nbeta=1.0))
    expected = gf.influence_from_losses(SampledLosses.of({"data": x[[0, 1, 3]]}, nbeta=1.0))
    assert torch.equal(found.covariance, expected.covariance)


@pytest.mark.parametrize("compute_covariance", [True, False])
def test_as_devinterp(compute_covariance):
    pytest.importorskip("devinterp")
    xarray = pytest.importorskip("xarray")
    bif = pytest.importorskip("devinterp.slt.bif")
    tokens = cases.normal(3, 40, 4, 6, dtype=torch.float64) + series(3, 40, 1, 7)[..., None]
    data = cases.normal(3, 40, 5, 6, dtype=torch.float64, seed=1) + series(3, 40, 1, 8)[..., None]
    arrays = {}
    for name, x in {"a_query": tokens, "data": data}.items():
        dims = ("chain", "draw", f"batch_{name}", "token_pos")
        arrays[f"loss_{name}"] = xarray.DataArray(x.numpy(), dims=dims)
        ids = torch.zeros(x.shape[2], x.shape[3] + 1, dtype=torch.int64)
        arrays[f"input_ids_{name}"] = xarray.DataArray(ids.numpy(), dims=(f"batch_{name}", "token"))
    tree = xarray.DataTree(xarray.Dataset(arrays))
    peer = bif.compute_bif(
        tree, correlation_method="sequence", compute_covariance=compute_covariance, device="cpu",
        batch_index_range_1=range(4), batch_index_range_2=range(4, 9),
    )["influences"].values  # fmt: skip
    losses = SampledLosses.of({"data": data, "a_query": tokens}, nbeta=7.0)
    found = gf.influence_from_losses(losses, queries="a_query")
    ours = found.covariance if compute_covariance else found.correlation
    torch.testing.assert_close(ours, torch.from_numpy(peer), rtol=1e-6, atol=1e-6)


def test_what_is_refused():
    data = {"lr": 0.1, "nbeta": 8.0, "localization": 2.0, "draws": 3, "burn_in": 0}
    with pytest.raises(TypeError, match="observe is no argument of influence"):
        gf.influence(model(), squared, DATA, observe={}, **data)
    with pytest.raises(TypeError, match=r"losses must be SampledLosses, .* not Tensor"):
        gf.influence_from_losses(series())
    with pytest.raises(ValueError, match=r"no losses are kept of 'code': there are \['data'\]"):
        gf.influence_from_losses(kept(), queries="code")
    with pytest.raises(TypeError, match="tokens must be True or False, not 3"):
        gf.influence_from_losses(kept(), tokens=3)
    with pytest.raises(ValueError, match="all 3 chains have diverged"):
        gf.influence_from_losses(SampledLosses.of({"data": series() * torch.nan}, nbeta=1.0))
    with pytest.raises(ValueError, match="single draw"):
        gf.influence_from_losses(SampledLosses.of({"data": series(1, 1)}, nbeta=1.0))


def test_few_draws_have_no_error():
    found = gf.influence_from_losses(SampledLosses.of({"data": series(1, 3)}, nbeta=1.0))
    assert found.covariance_stderr.isnan().all() and found.covariance.isfinite().all()
    assert found.verdict == "too few draws: fewer than four of each chain"


def test_a_loader_that_shuffles_is_told_of():
    data = torch.utils.data.TensorDataset(*DATA)
    shuffled = torch.utils.data.DataLoader(data, batch_size=5, shuffle=True)
    with pytest.warns(UserWarning, match="queries: a DataLoader that shuffles"):
        gf.influence(model(), squared, DATA, queries=(squared, shuffled), draws=4, **CHAINS)
    with pytest.warns(UserWarning, match="data: a DataLoader that shuffles"):
        gf.influence(model(), squared, shuffled, draws=4, **CHAINS)
