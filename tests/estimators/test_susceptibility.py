"""Susceptibilities against exact moments of a Gaussian posterior, and against devinterp."""

import pytest
import torch

import geomfast as gf
from geomfast.estimators.sampling.kept import SampledLosses
from geomfast.files import FileError
from tests import cases
from tests.estimators.sampling.gaussian import Parted, queries, regression, squared

WHOLE = regression()
PARTS = {"a": regression(moved=slice(0, 2)), "b": regression(moved=slice(2, 4))}
DATA = (WHOLE.x.float(), WHOLE.y.float())
OTHERS = queries()
PROBE = (OTHERS[0].float(), OTHERS[1].float())
CHAINS = {
    "lr": 0.15, "momentum": 0.2, "nbeta": 8.0, "localization": 2.0, "chains": 8, "burn_in": 50,
    "draws": 600,
}  # fmt: skip


def exact(part, probe, reference):
    """-( E_C[phi dL] - E_C[phi] E[dL] ) for each sample of a probe."""
    data = (part.x, part.y)
    initial = 0.5 * (part.x @ part.center - part.y).square().mean()
    phi = part.means(*data).mean() - initial
    with_data = part.covariances(data, data).mean()
    covariance = part.covariances(probe, data).mean(1) - with_data
    difference = part.means(*probe) - part.means(*data).mean()
    of = WHOLE if reference == "full" else part
    center = of.means(*probe) - of.means(*data).mean()
    return -(covariance + phi * (difference - center))


@pytest.fixture(scope="module", params=["full", "component"])
def found(request):
    return gf.susceptibility(
        Parted(WHOLE.center.float(), 2), squared, DATA, components={"a": "first", "b": ["second"]},
        observe={"other": PROBE}, reference=request.param, seed=1,
        **CHAINS,
    )  # fmt: skip


def test_values_are_those_of_the_gaussian_posterior(found):
    assert found.components == ("a", "b") and found.nbeta == 8.0
    for name, probe in {"data": (WHOLE.x, WHOLE.y), "other": OTHERS}.items():
        expected = torch.stack([exact(part, probe, found.reference) for part in PARTS.values()])
        away = (found.values[name] - expected) / found.stderr[name]
        assert away.abs().max() < 3.0 and away.square().mean().sqrt() < 1.5
        assert (found.stderr[name] / expected.abs().mean()).mean() < 0.25
    away = (found.mean["other"] - expected.mean(1)) / found.mean_stderr["other"]
    assert away.abs().max() < 3.0
    # All of the data is no shift of it.
    assert found.mean["data"].abs().max() < 1e-12
    assert set(found.runs) == ({"a", "b", "full"} if found.reference == "full" else {"a", "b"})
    assert all(v.startswith(("converged", "usable")) for v in found.verdicts.values())


def drawn(part, generator):
    """Losses at independent draws of the exact posterior."""
    mean, spread = part.posterior()
    root = torch.linalg.cholesky(spread + 1e-18 * torch.eye(4).double())
    normal = torch.randn(8, 200, 4, generator=generator, dtype=torch.float64)
    w = mean + normal @ root.T
    losses = {
        name: 0.5 * (w @ x.T - y).square()
        for name, (x, y) in {"data": (part.x, part.y), "other": OTHERS}.items()
    }
    initial = {"data": 0.5 * (part.x @ part.center - part.y).square()}
    return SampledLosses.of(losses, nbeta=8.0, initial=initial)


@pytest.mark.parametrize("reference", ["full", "component"])
def test_errors_are_as_large_as_estimates_differ(reference):
    away, expected = [], exact(PARTS["a"], OTHERS, reference)
    for seed in range(40):
        generator = cases.generator(seed)
        own, full = drawn(PARTS["a"], generator), drawn(WHOLE, generator)
        found = gf.susceptibility_from_losses({"a": own}, full if reference == "full" else None)
        away.append((found.values["other"][0] - expected) / found.stderr["other"][0])
    away = torch.stack(away)
    # Products of losses have heavy tails, and errors that are small where estimates are.
    assert (away.abs() < 1.96).double().mean() > 0.87
    assert 0.8 < away.square().mean().sqrt() < 1.25
    assert (away.mean(0).abs() < 0.6).all()


def test_it_is_a_derivative_by_a_shift_of_the_data():
    """nbeta chi of the component's own reference: of E[phi] by h, from exact means."""
    part, step = PARTS["a"], 1e-4

    def phi(h):
        """E of the loss over data where the chains' loss is (1 - h) L + h times that of OTHERS."""
        n, m = len(part.x), len(OTHERS[0])
        # Samples weigh by the root of what their losses do.
        shares = torch.cat([torch.full((n,), (1 - h) / n), torch.full((m,), h / m)]).double()
        root = (shares * (n + m)).sqrt()
        mixed = regression(moved=part.moved)
        mixed.x = torch.cat([part.x, OTHERS[0]]) * root[:, None]
        mixed.y = torch.cat([part.y, OTHERS[1]]) * root
        return mixed.means(part.x, part.y).mean().item()

    derivative = (phi(2 * step) - phi(0.0)) / (2 * step)
    chi = exact(part, OTHERS, "component").mean().item()
    assert derivative == pytest.approx(8.0 * chi, rel=2e-3)


def kept(seed, tokens=False, initial=None):
    """Losses (3, 40, N) or (3, 40, N, T) of two data sets."""
    shape = (6,) if tokens else ()
    shared = cases.normal(3, 40, 1, *([1] * len(shape)), dtype=torch.float64, seed=seed)
    losses = {
        name: 3.0 + shared + cases.normal(3, 40, n, *shape, dtype=torch.float64, seed=seed + n)
        for name, n in {"data": 5, "code": 4}.items()
    }
    if initial is None:
        initial = {"data": torch.full((5, *shape), 2.5).double()}
    return SampledLosses.of(losses, nbeta=20.0, initial=initial)


def test_as_devinterp():
    pytest.importorskip("devinterp")
    xarray = pytest.importorskip("xarray")
    peer = pytest.importorskip("devinterp.slt.susceptibilities", exc_type=ImportError)
    ours = {name: kept(seed, tokens=True) for seed, name in enumerate(("head", "mlp", "full"))}
    trees = {}
    for name, losses in ours.items():
        arrays = {"init_loss": xarray.DataArray(torch.full((2,), 2.5).numpy())}
        for of in losses.names:
            x = losses.read(of, tokens=True)
            dims = ("chain", "draw", f"batch_{of}", "token_pos")
            arrays[f"loss_{of}"] = xarray.DataArray(x.numpy(), dims=dims)
            ids = torch.zeros(x.shape[2], x.shape[3] + 1, dtype=torch.int64)
            arrays[f"input_ids_{of}"] = xarray.DataArray(ids.numpy(), dims=(f"batch_{of}", "token"))
        trees[name] = xarray.DataTree(xarray.Dataset(arrays))
    theirs = peer.compute_susceptibilities(trees, "data")["susceptibilities"]["sus"]
    found = gf.susceptibility_from_losses(
        {name: ours[name] for name in ("head", "mlp")}, ours["full"], tokens=True
    )
    expected = torch.from_numpy(theirs.transpose("wr", "sus_flat").values).view(2, 4, 6)
    torch.testing.assert_close(found.values["code"], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("with_full", [True, False])
def test_tokens_and_samples_average(with_full):
    components = {"head": kept(0, tokens=True), "mlp": kept(10, tokens=True)}
    full = kept(20, tokens=True) if with_full else None
    by_token = gf.susceptibility_from_losses(components, full, tokens=True)
    by_sample = gf.susceptibility_from_losses(components, full)
    assert by_token.values["code"].shape == by_token.stderr["code"].shape == (2, 4, 6)
    torch.testing.assert_close(by_sample.values["code"], by_token.values["code"].mean(2))
    torch.testing.assert_close(by_sample.mean["code"], by_sample.values["code"].mean(1))
    torch.testing.assert_close(by_token.mean["code"], by_sample.mean["code"])


def test_the_error_of_the_full_chains_counts():
    """With few draws of all parameters their mean is what is least known."""
    component = {"head": kept(0)}
    full = kept(20)
    one = gf.susceptibility_from_losses(component, full)
    short = {name: full.read(name)[:, ::5] for name in full.names}
    few = gf.susceptibility_from_losses(component, SampledLosses.of(short, nbeta=20.0))
    assert (few.stderr["code"] > one.stderr["code"]).all()


def test_what_is_refused(tmp_path):
    model = Parted(WHOLE.center.float(), 2)

    def call(**options):
        given = {"components": {"a": "first"}} | options
        return gf.susceptibility(model, squared, DATA, lr=0.1, nbeta=8.0, draws=4, **given)

    with pytest.raises(TypeError, match=r"components must map names .* not be list"):
        call(components=["first"])
    with pytest.raises(TypeError, match=r"components must .* \(empty\)"):
        call(components={})
    with pytest.raises(ValueError, match="reference must be 'full' or 'component', not 'all'"):
        call(reference="all")
    with pytest.raises(ValueError, match="'full' is the name of all parameters"):
        call(components={"full": "first"})
    with pytest.raises(ValueError, match="component 'b': params: 'third' matches none"):
        call(components={"b": "third"})
    with pytest.raises(TypeError, match="params is no argument of susceptibility"):
        call(params=["first"])
    with pytest.raises(ValueError, match=r"localization must be a number, .* not 'norm'"):
        call(localization="norm")
    with pytest.raises(ValueError, match=r"localization must be a number, .* not None"):
        gf.susceptibility(model, squared, DATA, components={"a": "first"})
    with pytest.raises(FileError, match="component 'a/b' is not a plain name"):
        call(components={"a/b": "first"}, keep_losses=tmp_path / "losses")
    with pytest.raises(TypeError, match="keep_losses must be True, or a path, not"):
        call(keep_losses=3)
    with pytest.raises(ValueError, match="'data' at the model's own weights are not known"):
        gf.susceptibility_from_losses({"a": kept(0, initial={})})
    other = SampledLosses.of({"data": kept(0).read("data")}, nbeta=20.0)
    with pytest.raises(ValueError, match="must be of the same data sets"):
        gf.susceptibility_from_losses({"a": kept(0)}, other)
    twice = SampledLosses.of({n: kept(0).read(n) for n in ("data", "code")}, nbeta=40.0)
    with pytest.raises(ValueError, match="nbeta must be the same, not 20 and 40"):
        gf.susceptibility_from_losses({"a": kept(0)}, twice)
    near, far = (
        SampledLosses.of({"data": kept(0).read("data")}, nbeta=20.0, localization=value)
        for value in (100.0, 500.0)
    )
    with pytest.raises(ValueError, match="localization must be the same, not 100 and 500"):
        gf.susceptibility_from_losses({"a": near}, far)


def test_losses_are_kept(tmp_path):
    model, path = Parted(WHOLE.center.float(), 2), tmp_path / "kept"
    options = {**CHAINS, "draws": 20, "components": {"head 1": "first", "b": "second"}}
    memory = gf.susceptibility(model, squared, DATA, **options)
    written = gf.susceptibility(model, squared, DATA, keep_losses=path, **options)
    assert torch.equal(written.values["data"], memory.values["data"])
    assert sorted(p.name for p in path.iterdir()) == ["b", "full", "head 1"]
    read = gf.susceptibility_from_losses(
        {name: gf.load_losses(path / name) for name in ("head 1", "b")},
        gf.load_losses(path / "full"),
    )
    assert torch.equal(read.values["data"], memory.values["data"])
    with pytest.raises(FileError, match="holds something already"):
        gf.susceptibility(model, squared, DATA, keep_losses=path, **options)


def test_a_seed_is_a_result_and_components_have_noise_of_their_own():
    model = Parted(torch.ones(4), 2)
    with torch.no_grad():
        model.second.copy_(model.first)
    x = torch.cat([DATA[0][:, :2]] * 2, 1)  # both components are alike
    options = {**CHAINS, "draws": 20, "components": {"a": "first", "b": "second"}}
    one, again = (gf.susceptibility(model, squared, (x, DATA[1]), **options) for _ in range(2))
    assert torch.equal(one.values["data"], again.values["data"])
    assert not torch.equal(one.runs["a"].loss_trace, one.runs["b"].loss_trace)
