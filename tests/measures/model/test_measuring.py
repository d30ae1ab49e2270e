"""Measures of any model: what is returned, what is left alone, and what happens out of memory."""

import dataclasses
import gc
import logging
import math

import pytest
import torch
from torch import nn

import geomfast as gf
from geomfast.estimators.gradients import gradient_ranks
from geomfast.estimators.sampling import calibrate
from geomfast.estimators.sampling.calibrate import attempt
from geomfast.measures.catalog import spec_of
from geomfast.measures.memory import halving, out_of_memory
from geomfast.measures.model.measuring import MEASURES, MeasuredValue, measure_model
from geomfast.measures.model.options import ModelSettings
from geomfast.measures.spec import OF_ACTIVATIONS
from tests import cases


def fast(changes=None, **common):
    """Settings that take little time, with other ones of some measures."""
    settings = {
        "hessian_top": {"max_iterations": 20},
        "hessian_trace": {"probes": 6},
        "llc": {"draws": 6, "burn_in": 2, "batch_size": 4, "lr": 1e-4},
    }
    for name, own in (changes or {}).items():
        settings[name] = settings.get(name, {}) | own
    return ModelSettings.asked(settings, **common)


FAST = fast()
X = cases.normal(10, 5)
FULL = "CUDA out of memory. Tried to allocate 2.00 GiB"


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 6), nn.Dropout(0.4), nn.Tanh(), nn.Linear(6, 3))


def loss(model, x):
    return model(x).square().sum(1)


def states(model, x=X):
    hidden = torch.tanh(model[0](x))
    return {"block 1": hidden, "block 2": hidden * 2, "final": model[3](hidden)}


def measured(model, measures, options=FAST, data=X, **more):
    found = measure_model(
        model, loss, data, measures, options, states=lambda: states(model), **more
    )
    return {f"{f.measure} {f.layer}".strip(): f for f in found}


def test_they_are_the_public_measures():
    model = network()
    found = measured(model, MEASURES)
    model.eval()
    values = {name: f.value for name, f in found.items()}
    for label, x in states(model).items():
        assert values[f"rankme {label}"] == gf.rankme(x.detach()).item()
    assert values["fisher_rank"] == gf.fisher_effective_rank(model, loss, X)
    assert values["gradient_covariance_rank"] == pytest.approx(
        gf.gradient_covariance_rank(model, loss, X)
    )
    assert values["fisher_rank_first_50k"] == values["fisher_rank"]
    top = gf.hessian_top_eigenvalues(model, loss, X, max_iterations=20)
    assert values["hessian_top"] == top.values[0].item()
    assert found["hessian_top"].stderr == top.residuals[0].item()
    trace = gf.hessian_trace(model, loss, X, probes=6)
    assert (values["hessian_trace"], found["hessian_trace"].stderr) == (trace.mean, trace.stderr)
    llc = gf.llc(
        model,
        loss,
        X,
        lr=1e-4,
        localization="norm",
        chains=4,
        draws=6,
        burn_in=2,
        batch_size=4,
        max_draws=24,
    )
    assert (values["llc"], found["llc"].stderr) == (llc.mean, llc.stderr)
    assert values["llc_rhat"] == llc.rhat and values["llc_diverged"] == 0.0
    assert llc.nbeta == 10 / math.log(10) and found["llc"].settings["nbeta"] == "n / log n"
    assert all(isinstance(f, MeasuredValue) and f.n == 10 and f.seconds > 0 for f in found.values())
    assert all(f.backend for f in found.values())


def test_order_is_that_of_the_measures():
    found = list(measured(network(), ["llc", "rankme", "fisher_rank"]))
    assert found[:4] == ["rankme block 1", "rankme block 2", "rankme final", "fisher_rank"]
    assert found[5] == "llc"


def test_nothing_is_changed():
    model = network().train()
    model[0].eval()
    model[0].weight.grad = torch.ones(6, 5)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    state, dtype = torch.random.get_rng_state(), torch.get_default_dtype()
    first = measured(model, MEASURES)
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(model[0].weight.grad, torch.ones(6, 5)) and model[3].weight.grad is None
    assert torch.equal(torch.random.get_rng_state(), state) and torch.get_default_dtype() == dtype
    again = measured(model, MEASURES)
    values = [[f.value for f in x.values()] for x in (first, again)]
    assert values[0] == pytest.approx(values[1], rel=0, abs=0, nan_ok=True)


def test_samples_are_the_first():
    names = [name for name in MEASURES if spec_of(name).need not in OF_ACTIVATIONS]
    few = measured(network(), names, fast(samples=5))
    same = measured(network(), names, data=X[:5])
    cut = measured(network(), names, fast(samples=5), data=[X[:3], X[3:]])
    for name, f in few.items():
        assert f.n == 5 and f.settings["samples"] == 5
        assert f.value == same[name].value or math.isnan(f.value)
        assert cut[name].value == pytest.approx(f.value, rel=1e-3, nan_ok=True), name


def test_batches_are_joined():
    whole = measured(network(), MEASURES[1:])
    parts = measured(network(), MEASURES[1:], data=[X[:2], X[2:]])
    for name, f in parts.items():
        assert f.n == 10
        assert f.value == pytest.approx(whole[name].value, rel=1e-3, nan_ok=True), name


def test_settings_name_what_shapes_a_value():
    found = measured(network(), MEASURES)
    assert found["rankme final"].settings == {
        "measure": "rankme", "samples": None, "position": "last", "center": False, "eps": 0.0
    }  # fmt: skip
    # How many samples go through at once does not.
    other = measured(network(), MEASURES, fast(batch_size=3, check=False))
    for name, f in other.items():
        assert f.settings == found[name].settings
        assert f.value == pytest.approx(found[name].value, rel=1e-3, nan_ok=True), name
    for common in ({"samples": 3}, {"position": "mean"}, {"params": ["head.*"]}):
        assert any(fast(**common).of(name) != FAST.of(name) for name in MEASURES), common
    for name in MEASURES:
        for setting, value in dataclasses.asdict(FAST.settings_of(name)).items():
            other = not value if isinstance(value, bool) else 7
            other = {"momentum": 0.7, "fraction": 0.7, "tol": 0.7, "last": 70}.get(setting, other)
            assert fast({name: {setting: other}}).of(name) != FAST.of(name), (name, setting)


def test_rankme_alone_needs_no_loss():
    model = network()
    found = measure_model(model, None, None, ["rankme"], states=lambda: states(model))
    assert [f.layer for f in found] == ["block 1", "block 2", "final"]


@pytest.mark.parametrize(
    ("measures", "more", "message"),
    [
        (["rankmee"], {}, "unknown measure 'rankmee'; there are: rankme, fisher_rank"),
        (["rankme"], {"states": None}, "rankme needs states"),
        (["rankme"], {"states": dict}, "states gave no layer"),
        (["llc"], {"loss_fn": None}, "llc needs a loss_fn and data"),
        (["llc", "hessian_top"], {"data": None}, "hessian_top needs a loss_fn and data"),
        (["fisher_rank"], {"data": [X[:2, :3], X]}, "batches of data cannot be joined"),
    ],
)
def test_what_is_missing(measures, more, message):
    model = network()
    given = {"loss_fn": loss, "data": X, "states": lambda: states(model)} | more
    with pytest.raises(ValueError, match=message):
        measure_model(model, given["loss_fn"], given["data"], measures, states=given["states"])


def test_chains_that_all_diverge_are_recorded():
    found = measured(network(), ["llc"], fast({"llc": {"lr": 1e3, "localization": 0}}))
    assert math.isnan(found["llc"].value) and found["llc_diverged"].value == 4.0


# Out of memory


@pytest.fixture(autouse=True)
def no_collection(monkeypatch):
    """Which takes its time when many libraries are loaded."""
    monkeypatch.setattr(gc, "collect", lambda: 0)


@pytest.mark.parametrize(
    ("error", "is_it"),
    [
        (torch.OutOfMemoryError("no"), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), True),
        (RuntimeError("shapes do not fit"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_is_out_of_memory(error, is_it):
    assert out_of_memory(error) == is_it


def test_halving():
    sizes, said = [], []

    def attempt(size):
        sizes.append(size)
        if size > 3:
            raise torch.OutOfMemoryError(FULL)
        return size

    assert halving(attempt, 13, "it", notice=said.append) == 3
    assert sizes == [13, 6, 3]
    assert said[0] == "out of memory: it continues with 6 samples at a time" and len(said) == 2
    with pytest.raises(torch.OutOfMemoryError):
        halving(attempt, 13, "it", least=5, notice=said.append)
    with pytest.raises(KeyError):
        halving(lambda size: {}[size], 4, "it")


class Small:
    """A loss whose memory holds so many samples only."""

    def __init__(self, most):
        self.most = most

    def __call__(self, model, x):
        if x.shape[-2] > self.most:
            raise torch.OutOfMemoryError(FULL)
        return loss(model, x)


@pytest.mark.parametrize("most", [2, 5])
def test_gradients_and_hessians_are_the_same_with_less_memory(most):
    model = network()
    names = ("fisher_rank", "gradient_covariance_rank", "hessian_top", "hessian_trace")
    options = fast({name: {"first_entries": 20} for name in names[:2]})
    whole = measure_model(model, loss, X, names, options)
    said = []
    parts = measure_model(model, Small(most), X, names, options, notice=said.append)
    for a, b in zip(whole, parts, strict=True):
        assert (a.measure, a.n, a.settings) == (b.measure, b.n, b.settings)
        assert a.value == pytest.approx(b.value, rel=1e-4), a.measure
    assert any("Gram matrix of gradients continues" in line for line in said)
    assert any("hessian_trace of the Hessian continues" in line for line in said)


@pytest.mark.parametrize("at_once", [2, 3, 4, 7, 9])
def test_ranks_in_blocks_are_exact(at_once):
    model = network().double().eval()
    x = X.double()
    whole = gradient_ranks(model, loss, x, first=20)
    blocks = gradient_ranks(model, loss, x, first=20, at_once=at_once)
    for a, b in zip(whole, blocks, strict=True):
        ranks = [(one.fisher, one.covariance) for one in (a, b)]
        assert ranks[0] == pytest.approx(ranks[1], rel=1e-10)
        assert torch.allclose(a.gram, b.gram, rtol=1e-10)
    assert whole[0] != whole[1]


def test_ranks_in_blocks_of_at_least_two():
    with pytest.raises(ValueError, match="at_once must be 2 or more samples, not 1"):
        gradient_ranks(network().eval(), loss, X, first=20, at_once=1)


@pytest.mark.parametrize("batch_size", [4, None])
def test_chains_go_on_with_less_memory(batch_size, monkeypatch):
    """One after the other, and then with parts of a minibatch, which is the same estimate."""
    model = network()
    options = fast({"llc": {"batch_size": batch_size}})
    data = [X[:6], X[6:]]
    whole = measured(model, ["llc"], options, data)
    calls, said = [], []

    def limited(*arguments, stacked=None, at_once, **more):
        calls.append((stacked, at_once))
        if stacked is None or at_once > 2:
            raise torch.OutOfMemoryError(FULL)
        return attempt(*arguments, stacked=stacked, at_once=at_once, **more)

    monkeypatch.setattr(calibrate, "attempt", limited)
    less = measured(model, ["llc"], options, data, notice=said.append)
    sizes = [4, 2] if batch_size else [6, 3, 1]
    assert calls == [(None, sizes[0]), *((False, size) for size in sizes)]
    assert said[0] == "out of memory: chains of the llc continue one after the other"
    assert (
        said[-1] == f"out of memory: sampling the llc continues with {sizes[-1]} samples at a time"
    )
    for name, f in less.items():
        assert f.value == pytest.approx(whole[name].value, rel=1e-3, abs=1e-6, nan_ok=True), name
        assert f.settings == whole[name].settings


def test_chains_where_memory_suffices_for_few_samples():
    model, said = network(), []
    whole = measured(model, ["llc"])["llc"]
    less = measure_model(model, Small(2), X, ["llc"], FAST, notice=said.append)[0]
    assert less.value == pytest.approx(whole.value, rel=1e-3)
    assert said[-1].endswith("continues with 2 samples at a time")


def test_notices_are_logged(caplog):
    with caplog.at_level(logging.WARNING, "geomfast"):
        measure_model(network(), Small(5), X, ["hessian_trace"], FAST)
    assert caplog.messages == [
        "out of memory: hessian_trace of the Hessian continues with 5 samples at a time"
    ]


@pytest.mark.filterwarnings("ignore")
def test_compiled_models_are_measured_as_they_were():
    model = network()
    compiled = torch.compile(model, backend="eager")
    names = ["fisher_rank", "hessian_trace"]
    assert [f.value for f in measure_model(compiled, loss, X, names, FAST)] == [
        f.value for f in measure_model(model, loss, X, names, FAST)
    ]
