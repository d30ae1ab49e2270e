"""The estimator as it is called: what it leaves alone, what it refuses, what it says."""

import copy
import math
import random
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import geomfast as gf
from geomfast.estimators.batches import Batches
from geomfast.estimators.sampling.verdict import believable
from geomfast.testbed.models.gpt import GPT
from geomfast.testbed.models.scales import Scale
from tests import cases
from tests.estimators import models
from tests.estimators.curvature.cases import made, next_token
from tests.estimators.sampling.cases import Quadratic, coefficient, noise, output, silence

CURVATURE = torch.linspace(0.3, 2.0, 30)
DATA = noise(24, CURVATURE)
FAST: dict[str, Any] = {"lr": 0.02, "nbeta": 10.0, "localization": 1.0, "chains": 3, "draws": 8}


def quick(model=None, loss_fn=output, data=DATA, **options):
    options = FAST | {"burn_in": 2} | options
    return gf.llc(Quadratic(CURVATURE) if model is None else model, loss_fn, data, **options)


def tokens(count=6):
    return torch.randint(0, 7, (count, 5), generator=cases.generator(1))


def same(a, b):
    return torch.equal(a.loss_trace.nan_to_num(-1.0), b.loss_trace.nan_to_num(-1.0))


def close(a, b, rtol=1e-3):
    torch.testing.assert_close(a.loss_trace, b.loss_trace, rtol=rtol, atol=1e-5)
    torch.testing.assert_close(a.distance, b.distance, rtol=rtol, atol=1e-6)


# What is returned


def test_what_is_returned():
    found = quick(chains=3, draws=20, burn_in=5, batch_size=6)
    for trace in (found.loss_trace, found.excess_trace, found.distance):
        assert trace.shape == (3, 25) and trace.dtype == torch.float64
    assert found.per_chain.shape == found.diverged.shape == (3,)
    assert found.nbeta == 10.0 and found.stacked == 3
    assert found.initial_loss == pytest.approx(0.0, abs=1e-6)
    assert not found.diverged.any() and not found.distance[:, 0].any()
    assert 0.0 < found.acceptance < 1.0 and found.step_bias > 0.0


def test_burn_in_does_not_count():
    found = quick(draws=20, burn_in=30)
    kept = found.nbeta * found.excess_trace[:, 30:]
    assert found.mean == pytest.approx(kept.mean().item(), rel=1e-12)
    torch.testing.assert_close(found.per_chain, kept.mean(1))
    # The chains are the same however they are divided, and what is left out does not matter.
    whole = quick(draws=50, burn_in=0)
    assert same(whole, found)
    assert whole.mean == pytest.approx(10.0 * found.excess_trace.mean().item(), rel=1e-12)
    assert whole.mean < found.mean


def test_excess_is_of_the_same_minibatch():
    """The losses of a minibatch less what they are at the model's own weights."""
    shift = torch.arange(24.0)
    data = (DATA, shift)
    found = quick(data=data, loss_fn=lambda m, b: m(b[0]) + 100 * b[1], batch_size=5, draws=40)
    assert found.initial_loss == pytest.approx(1150.0)
    assert found.loss_trace.std() > 100 and found.excess_trace.abs().max() < 30
    assert found.excess_trace[:, 0].abs().max() < 1e-3


def test_nbeta_is_n_over_log_n():
    assert quick(nbeta=None).nbeta == 24 / math.log(24)
    batches = [DATA[:4], DATA[4:5], DATA[5:]]
    assert quick(data=batches, nbeta=None).nbeta == 24 / math.log(24)
    assert quick(data=batches, nbeta=None, batch_size=3).nbeta == 24 / math.log(24)
    assert quick(data=silence(CURVATURE), nbeta=3.0).nbeta == 3.0


def test_progress():
    done = []
    quick(chains=4, draws=7, burn_in=3, stacked=False, progress=done.append)
    assert sum(done) == 40 and set(done) == {1}


# The same numbers


@pytest.mark.parametrize("batch_size", [None, 5])
@pytest.mark.parametrize("stacked", [True, False])
def test_a_seed_is_a_result(batch_size, stacked):
    first, again, other = (
        quick(batch_size=batch_size, stacked=stacked, seed=seed) for seed in (7, 7, 8)
    )
    assert same(first, again) and first.mean == again.mean
    assert not same(first, other)


@pytest.mark.parametrize("name", ["mlp", "cnn", "attention", "tied", "gpt"])
@pytest.mark.parametrize("batch_size", [None, 4])
@pytest.mark.parametrize("momentum", [None, 0.5])
def test_stacked_or_not(name, batch_size, momentum):
    """The same noise and minibatches: traces that differ by rounding."""
    model, data, loss = made(name)
    call: dict[str, Any] = {"lr": 1e-4, "nbeta": 20.0, "localization": 30.0}
    call |= {"chains": 3, "draws": 8, "burn_in": 0, "batch_size": batch_size}
    call |= {"momentum": momentum}
    together = gf.llc(model, loss, data, stacked=True, **call)
    apart = gf.llc(model, loss, data, stacked=False, **call)
    assert (together.stacked, apart.stacked) == (3, 1)
    close(together, apart)
    # Chains that do not all have the same fate.
    assert together.loss_trace[:, -1].std() > 1e-4


@pytest.mark.parametrize("stacked", [True, False])
def test_more_chains_do_not_change_the_first(stacked):
    few, many = (quick(batch_size=5, chains=n, stacked=stacked) for n in (2, 5))
    torch.testing.assert_close(few.loss_trace, many.loss_trace[:2], rtol=1e-5, atol=1e-6)


def test_more_draws_do_not_change_the_first():
    few, many = (quick(batch_size=5, draws=n) for n in (5, 30))
    assert torch.equal(few.loss_trace, many.loss_trace[:, :7])


@pytest.mark.parametrize("batch_size", [None, 5])
def test_an_iterable_of_unequal_batches_is_their_data(batch_size):
    whole = quick(batch_size=batch_size)
    parts = [DATA[:1], DATA[1:9], DATA[9:]]
    for data in (parts, iter(parts), (x for x in parts)):
        close(quick(data=data, batch_size=batch_size), whole)


@pytest.mark.parametrize("stacked", [True, False])
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"batch_size": 5},
        {"batch_size": 5, "common_batches": True},
        {"data": Batches([DATA] * 2)},
    ],
)
def test_fewer_samples_at_once_are_the_same_minibatch(stacked, more):
    seen = set()

    def loss(model, x):
        seen.add(x.shape[-2])
        return output(model, x)

    whole = quick(stacked=stacked, **more)
    close(quick(stacked=stacked, loss_fn=loss, at_once=2, **more), whole)
    assert max(seen) == 2
    assert same(quick(stacked=stacked, at_once=100, **more), whole)


def test_batches_of_a_data_loader():
    loader = torch.utils.data.DataLoader(list(DATA), batch_size=7)
    close(quick(data=loader), quick())


def test_common_batches():
    shifted = (DATA, torch.arange(24.0))
    loss = lambda m, b: m(b[0]) + b[1]  # noqa: E731
    for stacked in (True, False):
        start = quick(
            data=shifted, loss_fn=loss, batch_size=4, common_batches=True, stacked=stacked
        ).loss_trace[:, 0]
        assert len(start.unique()) == 1
    assert len(quick(data=shifted, loss_fn=loss, batch_size=4).loss_trace[:, 0].unique()) == 3


def test_minibatches_and_all_data_agree():
    """At small steps, which the noise of minibatches hardly warms."""
    call = {"lr": 2e-3, "chains": 32, "draws": 800, "burn_in": 300, "stacked": True}
    whole, parts = (quick(batch_size=size, **call) for size in (None, 8))
    assert abs(whole.mean - parts.mean) <= 3 * math.hypot(whole.stderr, parts.stderr)
    exact = coefficient(CURVATURE, 2e-3, 10.0, 1.0)
    assert abs(whole.mean - exact) <= 3 * whole.stderr and whole.stderr <= 0.03 * exact
    # Without the loss at the model's own weights the minibatches would be most of the variance.
    shifted = (DATA, 30.0 * cases.normal(24, seed=9))
    call["draws"] = 100
    kept = quick(data=shifted, loss_fn=lambda m, b: m(b[0]) + b[1], batch_size=8, **call)
    assert kept.excess_trace.std() < 0.1 * kept.loss_trace.std()


# Which weights


class Parts(nn.Module):
    """Two blocks of weights, which a product ties together."""

    def __init__(self, first=(1.0,), second=(0.5, 2.0)):
        super().__init__()
        self.moved = nn.Parameter(torch.tensor(first))
        self.fixed = nn.Parameter(torch.tensor(second))

    def forward(self, x):
        return 0.5 * ((self.moved * self.fixed).sum() - 2.5 + 0.1 * x) ** 2


class Part(Parts):
    def __init__(self):
        super().__init__()
        self.fixed.requires_grad_(False)


@pytest.mark.parametrize("stacked", [True, False])
def test_params_restricts_what_is_sampled(stacked):
    x = torch.linspace(-1, 1, 9)
    chosen = quick(Parts(), data=x, params=["mov*"], stacked=stacked)
    only = quick(Part(), data=x, stacked=stacked)
    assert same(chosen, only)
    assert not same(chosen, quick(Parts(), data=x, stacked=stacked))
    seen = []

    def loss(model, batch):
        seen.append(model.fixed.detach().clone())
        return model(batch)

    quick(Parts(), loss, x, params="moved", stacked=False)
    assert all(torch.equal(w, torch.tensor([0.5, 2.0])) for w in seen) and len(seen) > 30


def test_params_that_name_nothing():
    with pytest.raises(ValueError, match="'nothing' matches none of"):
        quick(params=["nothing"])


class Twice(nn.Module):
    """The same weights under two names."""

    def __init__(self):
        super().__init__()
        self.first, self.second = Quadratic(CURVATURE / 2), Quadratic(CURVATURE / 2)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.first(x / 2) + self.second(x / 2)


@pytest.mark.parametrize("stacked", [True, False])
@pytest.mark.parametrize("batch_size", [None, 5])
def test_tied_weights_are_one(stacked, batch_size):
    found = quick(Twice(), stacked=stacked, batch_size=batch_size)
    close(found, quick(stacked=stacked, batch_size=batch_size))


# Types


def test_bfloat16_is_sampled_in_float32():
    model = GPT(Scale("tiny", 2, 16, 2, 1e-3, 7, 5)).bfloat16()
    before = copy.deepcopy(model.state_dict())
    call = {"lr": 1e-5, "localization": 100.0, "batch_size": 4}
    found = quick(model, next_token, tokens(), **call)
    assert same(found, quick(copy.deepcopy(model).float(), next_token, tokens(), **call))
    # Steps of 1e-3 of a weight would be lost in its 8 bits.
    assert found.distance[:, -1].min() > 0.1
    for name, value in model.state_dict().items():
        assert value.dtype == torch.bfloat16 and torch.equal(value, before[name])


def test_data_of_a_bfloat16_model_come_along():
    model, (x, y), loss = made("mlp")
    half = copy.deepcopy(model).bfloat16()
    found = quick(half, loss, (x.bfloat16(), y))
    assert same(found, quick(half.float(), loss, (x.bfloat16().float(), y)))


def test_float64_stays_float64():
    call = {"draws": 30, "batch_size": 5}
    double = quick(Quadratic(CURVATURE.double()), data=DATA.double(), **call)
    single = quick(**call)
    torch.testing.assert_close(single.loss_trace, double.loss_trace, rtol=1e-4, atol=1e-5)
    assert not torch.equal(double.loss_trace.float().double(), double.loss_trace)
    assert double.mean == pytest.approx(single.mean, rel=1e-4)


# What is left alone


@pytest.mark.parametrize("stacked", [True, False])
@pytest.mark.parametrize("momentum", [None, 0.5])
def test_nothing_is_changed(stacked, momentum):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3))
    model[1].eval()
    model[0].bias.requires_grad_(False)
    data = (cases.normal(8, 4), torch.arange(8) % 3)
    loss = lambda m, b: F.cross_entropy(m(b[0]), b[1], reduction="none")  # noqa: E731
    loss(model, data).sum().backward()
    before = {
        "state": copy.deepcopy(model.state_dict()),
        "gradients": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "parameters": list(model.parameters()),
        "requires": [p.requires_grad for p in model.parameters()],
        "modes": [m.training for m in model.modules()],
        "random": (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()),
        "default": (torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads()),
        "attention": torch.backends.cuda.flash_sdp_enabled(),
        "data": [x.clone() for x in data],
    }
    with torch.no_grad():
        quick(model, loss, data, stacked=stacked, momentum=momentum, batch_size=4)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before["state"][name])
    for p, gradient in zip(model.parameters(), before["gradients"], strict=True):
        assert (p.grad is None) == (gradient is None)
        assert gradient is None or torch.equal(p.grad, gradient)
    assert all(p is q for p, q in zip(model.parameters(), before["parameters"], strict=True))
    assert [p.requires_grad for p in model.parameters()] == before["requires"]
    assert [m.training for m in model.modules()] == before["modes"]
    state, other, of_numpy = before["random"]
    assert torch.equal(torch.get_rng_state(), state)
    assert random.getstate() == other and np.random.get_state()[1].tolist() == of_numpy
    assert (torch.get_default_dtype(), True, torch.get_num_threads()) == before["default"]
    assert torch.backends.cuda.flash_sdp_enabled() == before["attention"]
    assert all(torch.equal(x, y) for x, y in zip(data, before["data"], strict=True))


# Chains that fail, and what is said


class Cubic(nn.Module):
    """Loss 1/2 w^2 - w^3 / 3: a chain that passes 1 falls for ever."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return (0.5 * self.weight**2 - self.weight**3 / 3).sum() + 0.0 * x[:, 0]


CUBIC: dict[str, Any] = {"lr": 0.05, "nbeta": 24.0, "localization": 0.0, "seed": 3, "burn_in": 50}


@pytest.mark.parametrize("stacked", [True, False])
def test_a_chain_that_diverges_does_not_count(stacked):
    data = torch.zeros(1, 1)
    found = quick(Cubic(), data=data, chains=12, draws=350, stacked=stacked, **CUBIC)
    lost = found.diverged
    assert 2 <= lost.sum() <= 9
    assert found.verdict.startswith(f"diverged: {int(lost.sum())} of 12 chains")
    assert "lower lr = 0.05" in found.verdict
    assert found.per_chain.isnan().equal(lost)
    assert found.loss_trace[lost, -1].isnan().all() and found.loss_trace[~lost].isfinite().all()
    kept = 24.0 * found.excess_trace[~lost, 50:]
    assert found.mean == pytest.approx(kept.mean().item(), rel=1e-12)
    assert math.isfinite(found.stderr) and math.isfinite(found.rhat)
    assert 0.0 < found.acceptance <= 1.0 and math.isfinite(found.step_bias)
    # The first chain that stayed, without those that did not.
    first = int((~lost).nonzero()[0])
    if not lost[: first + 1].any():
        alone = quick(Cubic(), data=data, chains=1, draws=350, **CUBIC)
        assert torch.equal(alone.loss_trace[0], found.loss_trace[first])


def test_when_all_chains_diverge():
    message = r"all 3 chains have diverged, the last after \d+ steps: lower lr = 3, or raise"
    with pytest.raises(ValueError, match=message):
        quick(lr=3.0, draws=500)


def test_verdicts():
    small = quick(draws=400, burn_in=100, chains=4)
    assert believable(small.verdict)
    assert quick(lr=0.15, draws=400).verdict.startswith("step too large: finite steps")
    assert quick(draws=3).verdict == "too few draws: fewer than four of each chain"
    assert quick(lr=1e-4, draws=50).verdict.startswith("too few draws: R-hat")
    model = Quadratic(CURVATURE)
    with torch.no_grad():
        model.weight += 3.0
    training = quick(model, localization=0.01, draws=100)
    assert training.mean < 0 and training.verdict.startswith("still training: the chains found")


# Bad input

NOT_POSITIVE = [0.0, -1.0, math.nan, math.inf, -math.inf]
NOT_WHOLE = [0, -1, math.nan, math.inf, 2.5, "2", None]


@pytest.mark.parametrize("value", NOT_POSITIVE)
@pytest.mark.parametrize("name", ["lr", "nbeta"])
def test_what_must_be_positive(name, value):
    with pytest.raises(ValueError, match=f"{name} must be positive, not"):
        quick(**{name: value})


@pytest.mark.parametrize("value", NOT_WHOLE)
@pytest.mark.parametrize("name", ["draws", "chains", "batch_size", "at_once"])
def test_what_must_be_a_whole_number(name, value):
    if name != "chains" and value is None:
        return
    with pytest.raises(ValueError, match=f"{name} must be a whole number of 1 or more, not"):
        quick(**{name: value})


@pytest.mark.parametrize("value", [-1, math.nan, 0.5])
@pytest.mark.parametrize("name", ["burn_in", "seed"])
def test_what_may_be_zero(name, value):
    with pytest.raises(ValueError, match=f"{name} must be a whole number of 0 or more, not"):
        quick(**{name: value})
    quick(**{name: 0})


def test_whole_numbers_of_numpy_will_do():
    assert quick(draws=np.int64(6), burn_in=np.int32(0)).loss_trace.shape == (3, 6)


def test_seeds_have_64_bits():
    assert not same(quick(seed=2**64 - 1, batch_size=5), quick(seed=2**63 - 1, batch_size=5))
    with pytest.raises(ValueError, match="seed must be at most 18446744073709551615"):
        quick(seed=2**64)


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_localization(value):
    with pytest.raises(ValueError, match="localization must be 0 or more, not"):
        quick(localization=value)


def test_nbeta_that_data_do_not_give():
    with pytest.raises(ValueError, match="nbeta must be given: data is an iterator"):
        quick(nbeta=None, data=iter([DATA]))
    with pytest.raises(ValueError, match="nbeta must be given: n / log n of a single sample"):
        quick(nbeta=None, data=DATA[:1])


def test_momentum():
    for value in (-0.1, 1.0, 3, math.nan):
        with pytest.raises(ValueError, match=f"momentum must be 0 or more .*, not {value}"):
            quick(momentum=value)
    with pytest.raises(TypeError, match="momentum"):
        quick(momentum="much")
    assert same(quick(momentum=0.5), quick(momentum=0.5))
    assert not same(quick(momentum=0.5), quick()) and not same(quick(momentum=0), quick())
    with pytest.raises(ValueError, match=r"preconditioner must be None: .* momentum allows"):
        quick(preconditioner="rmsprop")


def test_steps_that_cannot_be_stable():
    with pytest.raises(
        ValueError, match=r"lr = 0\.2 is too large: .* below 4 / \(.* = 21\) = 0\.19"
    ):
        quick(lr=0.2, curvature=2.0)
    quick(lr=0.19, curvature=2.0)
    with pytest.raises(ValueError, match="lr = 4 is too large"):
        quick(lr=4.0)  # the localization alone
    with pytest.raises(ValueError, match="curvature must be finite"):
        quick(curvature=math.nan)
    quick(lr=0.1, curvature=-50.0)  # at a saddle
    with pytest.raises(ValueError, match=r"lr = 0\.2 is too large"):
        quick(lr=0.2, curvature=2.0, momentum=0.5)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("batch_size", [None, 3])
def test_a_loss_that_is_not_finite_at_the_start(value, batch_size):
    data = DATA.clone()
    data[13] = value
    model = Quadratic(CURVATURE)
    with torch.no_grad():
        model.weight += 1.0
    with pytest.raises(
        ValueError, match="loss of sample 13 of batch 0 is not finite at the model's"
    ):
        quick(model, data=data, batch_size=batch_size)
    with pytest.raises(ValueError, match="loss of sample 3 of batch 1 is not finite"):
        quick(model, data=iter([data[:10], data[10:]]), nbeta=3.0, batch_size=batch_size)


@pytest.mark.parametrize("batch_size", [None, 4])
@pytest.mark.parametrize("stacked", [True, False])
def test_a_gradient_that_is_not_finite_at_the_start(batch_size, stacked):
    """Of sample 5 alone, a root of zero, which minibatches may meet late."""
    scale = torch.ones(24)
    scale[5] = 0.0

    def loss(model, batch):
        return model(batch[0]) + (batch[1] * (model.weight.sum() + 9)).sqrt()

    message = r"gradient of samples \d+ to \d+ of batch 0 is not finite in parameter weight"
    with pytest.raises(ValueError, match=message):
        quick(loss_fn=lambda m, b: loss(m, b), data=(DATA, scale), batch_size=batch_size,
              stacked=stacked, chains=4, draws=200)  # fmt: skip


def test_reduced_losses():
    with pytest.raises(ValueError, match="must not be reduced over samples"):
        quick(loss_fn=lambda m, x: m(x).mean())
    with pytest.raises(ValueError, match=r"must return shape \(24,\), not \(23,\)"):
        quick(loss_fn=lambda m, x: m(x)[1:])
    with pytest.raises(TypeError, match="floating-point tensor, not float"):
        quick(loss_fn=lambda m, x: 1.0)


@pytest.mark.parametrize("stacked", [True, False])
def test_what_does_not_reach_the_loss(stacked):
    model = nn.ModuleDict({"used": Quadratic(CURVATURE), "unused": nn.Linear(2, 2)})
    loss = lambda m, x: m["used"](x)  # noqa: E731
    with pytest.raises(ValueError, match=r"parameters unused\.weight, unused\.bias do not reach"):
        quick(model, loss, stacked=stacked)
    assert same(quick(model, loss, params=["used.*"], stacked=stacked), quick(stacked=stacked))
    with pytest.raises(ValueError, match="do not depend on any parameter"):
        quick(loss_fn=lambda m, x: x.sum(1), stacked=stacked)
    with pytest.raises(ValueError, match="no parameter of the model requires gradients"):
        quick(Quadratic(CURVATURE).requires_grad_(False))


@pytest.mark.parametrize("stacked", [True, False])
def test_what_is_random_or_couples_samples(stacked):
    x = cases.normal(6, 4)
    loss = lambda m, x: m(x).square().sum(1)  # noqa: E731
    dropping = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5))
    with pytest.raises(ValueError, match=r"dropout is on in 1 \(Dropout\): call model\.eval\(\)"):
        quick(dropping, loss, x, stacked=stacked)
    quick(dropping.eval(), loss, x, stacked=stacked)
    with pytest.raises(ValueError, match=r"dropout is on \(p = 0\.5\)"):
        quick(dropping, lambda m, x: loss(m, F.dropout(x, 0.5)), x, stacked=stacked)
    normed = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    with pytest.raises(ValueError, match=r"1 \(BatchNorm1d\) makes every sample's loss depend on"):
        quick(normed, loss, x, stacked=stacked)
    quick(normed.eval(), loss, x, stacked=stacked)


def test_data_that_will_not_do():
    with pytest.raises(ValueError, match="batch_size = 25 is more than the 24 samples of data"):
        quick(batch_size=25)
    quick(batch_size=24)
    with pytest.raises(ValueError, match="data holds no batch"):
        quick(data=[])
    with pytest.raises(ValueError, match="batch has N = 0 samples"):
        quick(data=DATA[:0])
    with pytest.raises(ValueError, match="must share their first dimension"):
        quick(data=(DATA, DATA[1:]))


def test_batches_of_unequal_lengths_have_no_minibatches():
    model = GPT(Scale("tiny", 1, 8, 2, 1e-3, 7, 5))
    data = [tokens(3), tokens(4)[:, :3]]
    assert quick(model, next_token, data, lr=1e-5).loss_trace.isfinite().all()
    with pytest.raises(ValueError, match=r"cannot be joined: .*pad them to one shape, or leave"):
        quick(model, next_token, data, lr=1e-5, batch_size=2)


def test_what_vmap_cannot_batch_runs_one_after_the_other(caplog):
    torch.manual_seed(3)
    model, batch = models.build()["lstm"]
    options = {"nbeta": 10.0, "lr": 1e-6, "chains": 2, "draws": 3, "burn_in": 0}
    found = gf.llc(model().eval(), models.loss, batch(), **options)
    assert found.stacked == 1 and "one after the other" in caplog.text
    with pytest.raises(ValueError, match="cannot run 2 chains as one program"):
        gf.llc(model().eval(), models.loss, batch(), stacked=True, **options)


def test_a_data_loader_does_not_move_the_global_generator():
    loader = torch.utils.data.DataLoader(DATA, batch_size=8, shuffle=True)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    quick(data=loader)
    assert torch.equal(torch.get_rng_state(), before)
