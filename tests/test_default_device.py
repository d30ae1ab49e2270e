"""Under a foreign default device everything comes out as it does without one, to the bit."""

import contextlib

import pytest
import torch
from torch.utils._pytree import tree_leaves

import geomfast as gf
from geomfast.kernels.self_test import self_test
from geomfast.losses import next_token
from geomfast.measures import measures
from geomfast.measures.model.measuring import MEASURES
from geomfast.records import load_records
from geomfast.sweep.jobs import Job
from geomfast.sweep.plan import Settings, run_specs
from geomfast.testbed.models.gpt import GPT
from geomfast.testbed.models.scales import SCALES
from geomfast.testbed.tasks import TaskLevel
from geomfast.testbed.training.loop import Trainer
from geomfast.testbed.training.settings import TrainSettings
from tests.sweep.defaults import change
from tests.testbed.training.test_stacked import trainer as stacked_trainer
from tests.tracker.tracked import batch, loss_fn, net

TOKENS = torch.randint(0, 24, (16, 12), generator=torch.Generator().manual_seed(0))
X = torch.randn(40, 24, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(40) % 4
MODEL = GPT(SCALES["nano"], 0)
NET, NET_BATCH = net().eval(), batch()
GRADIENT = gf.hessian_operator(NET, loss_fn, NET_BATCH).gradient()
CHAINS = {"lr": 1e-6, "draws": 4, "burn_in": 1}


@contextlib.contextmanager
def foreign():
    """A default device whose tensors can neither be read nor meet others."""
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


def top(**options):
    options = {"tol": 0.1, "max_iterations": 40} | options
    return gf.hessian_top_eigenvalues(MODEL, next_token, TOKENS, **options)


def custom(model, tokens):
    """Not a cross-entropy, so that autograd differentiates it."""
    return model(tokens).square().mean((1, 2))


CALLS = {
    "singular_values": lambda: gf.singular_values(X),
    "rankme": lambda: gf.rankme(X, center=True),
    "effective_rank": lambda: gf.effective_rank(gf.singular_values(X)),
    "gradient_gram": lambda: gf.gradient_gram(MODEL, next_token, TOKENS),
    "fisher": lambda: gf.fisher_effective_rank(MODEL, next_token, TOKENS, params=["blocks.*"]),
    "covariance": lambda: gf.gradient_covariance_rank(MODEL, next_token, TOKENS, params=3000),
    "hessian": lambda: top().values,
    "hessian of a custom loss": lambda: (
        gf.hessian_top_eigenvalues(MODEL, custom, TOKENS, tol=0.1, max_iterations=40).values
    ),
    "both ends": lambda: top(k=2, ends="both").vectors,
    "gauss-newton": lambda: top(matrix="gauss-newton").values,
    "by layer": lambda: [found.values for found in top(per_layer=True).values()],
    "trace": lambda: gf.hessian_trace(MODEL, next_token, TOKENS, probes=6).mean,
    "density": lambda: (
        gf.hessian_density(MODEL, next_token, TOKENS, probes=2, iterations=6).density
    ),
    "trace by layer": lambda: [
        found.mean
        for found in gf.hessian_trace(NET, loss_fn, NET_BATCH, probes=6, per_layer=True).values()
    ],
    "density by parameter": lambda: [
        found.density
        for found in gf.hessian_density(
            NET, loss_fn, NET_BATCH, probes=2, iterations=4, per_parameter=True
        ).values()
    ],
    "operator": lambda: gf.hessian_operator(NET, loss_fn, NET_BATCH).gradient(),
    "diagonal": lambda: gf.hessian_diagonal(NET, loss_fn, NET_BATCH, probes=6).stderr,
    "exact diagonal": lambda: gf.hessian_diagonal(NET, loss_fn, NET_BATCH, exact=True).mean,
    "inverse": lambda: gf.inverse_hessian_product(NET, loss_fn, NET_BATCH, GRADIENT, damping=9.0).x,
    "gradient norms": lambda: gf.gradient_norms(MODEL, next_token, TOKENS),
    "ntk": lambda: gf.ntk(NET, lambda m, b: m(b[0]), NET_BATCH),
    "chains as one": lambda: (
        gf.llc(MODEL, next_token, TOKENS, chains=2, batch_size=8, **CHAINS).loss_trace
    ),
    "one chain": lambda: gf.llc(MODEL, next_token, TOKENS, chains=1, **CHAINS).loss_trace,
    "observed": lambda: (
        gf.llc(MODEL, next_token, TOKENS, observe={"a": TOKENS[:3]}, **CHAINS)
        .observed["a"]
        .loss_trace
    ),
    "influence": lambda: gf.influence(MODEL, next_token, TOKENS, **CHAINS).covariance,
    "susceptibility": lambda: [
        getattr(found, name)["data"]
        for found in [
            gf.susceptibility(
                MODEL, next_token, TOKENS, components={"head": "blocks.0 head 1"}, **CHAINS
            )
        ]
        for name in ("values", "mean_stderr")
    ],
    "gradients of a head": lambda: gf.gradient_gram(
        MODEL, next_token, TOKENS, params="blocks.0 head 0"
    ),
    "hessian of a head": lambda: top(params="blocks.0 head 0").values,
    "probe": lambda: gf.probe_accuracy(X, LABELS).mean,
    "model": lambda: list(GPT(SCALES["nano"], 3).state_dict().values()),
}


@pytest.mark.filterwarnings("ignore::geomfast.estimators.hessian.NotConverged")
@pytest.mark.parametrize("name", CALLS)
def test_a_measure_does_not_depend_on_it(name):
    expected = CALLS[name]()
    with foreign():
        found = CALLS[name]()
    for a, b in zip(tree_leaves(expected), tree_leaves(found), strict=True):
        assert torch.equal(torch.as_tensor(a), torch.as_tensor(b))


def trained():
    one = Trainer(
        "nano", 0, [TaskLevel("COPY", 1), TaskLevel("CMP", 1)], TrainSettings(steps=4, batch_size=8)
    )
    for _ in range(2):
        one.train_step()
    return list(one.model.state_dict().values())


def trained_together():
    one = stacked_trainer()
    one.advance(3)
    return [program.model.weights for program in one.programs]


@pytest.mark.parametrize("train", [trained, trained_together])
def test_training_does_not_depend_on_it(train):
    expected = train()
    with foreign():
        found = train()
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def test_a_sweep_does_not_depend_on_it(tmp_path, monkeypatch):
    settings = Settings(
        mixture="joint", tasks=("COPY",), levels=(1,), steps=2, batch_size=8, learning_rate=None,
        precision="fp32", dense_until=2, dense_every=2, checkpoints=2, samples=10, llc_draws=2,
    )  # fmt: skip
    (one,) = run_specs(settings, ("nano",), (0,))
    for name, few in (("hessian_trace", {"probes": 6}), ("hessian_density", {"iterations": 5})):
        change(monkeypatch, name, **few)
    change(monkeypatch, "llc", burn_in=2)
    for name, inside in (("without", contextlib.nullcontext()), ("with", foreign())):
        with inside:
            assert Job(one, settings, measures(), tmp_path / name, "cpu", threads=1).run()
    expected, found = (load_records(tmp_path / name) for name in ("without", "with"))
    assert expected.drop(columns="seconds").equals(found.drop(columns="seconds"))


def test_a_tracker_does_not_depend_on_it(tmp_path):
    found = {}
    for name, inside in (("without", contextlib.nullcontext()), ("with", foreign())):
        model, data = net(), batch()
        with (
            inside,
            gf.Tracker(
                model, loss_fn, data, out=tmp_path / name, measures=MEASURES, max_overhead=None
            ) as tracker,
        ):
            tracker.step(0)
        found[name] = load_records(tmp_path / name).drop(columns="seconds")
    assert found["with"].equals(found["without"])


def test_self_tests_do_not_depend_on_it():
    with foreign():
        assert all(test.passed for test in self_test())
