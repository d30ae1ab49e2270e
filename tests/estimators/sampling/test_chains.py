"""Chains alone, together, in groups and with one that runs away: always the same bits."""

import dataclasses

import pytest
import torch
from torch import nn

from geomfast.estimators.sampling import chains as module
from geomfast.estimators.sampling.chains import Traces, group_size
from geomfast.kernels.sgld import normals
from tests.estimators.sampling.cases import Quadratic, noise, run_chains, sampling, silence

CURVATURE = torch.linspace(0.3, 2.0, 7)
DATA = noise(12, CURVATURE)


class Elementwise(Quadratic):
    """Without products of matrices, whose rounding may depend on how many chains there are."""

    def forward(self, x):
        return (0.5 * self.curvature * self.weight.square() + x * self.weight).sum(-1)


class Cubic(nn.Module):
    """Loss 1/2 w^2 - w^3 / 3: a chain that passes 1 falls for ever."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        return 0.5 * self.weight**2 - self.weight**3 / 3 + 0.0 * x


def same(found, expected, rows=slice(None)):
    for field in dataclasses.fields(Traces):
        a, b = getattr(found, field.name), getattr(expected, field.name)[rows]
        assert torch.equal(a.nan_to_num(-1.0), b.nan_to_num(-1.0)), field.name
    return True


def of_quadratic(**options):
    return sampling(Elementwise(CURVATURE), DATA, **options)


def test_the_first_steps_are_the_equation():
    """Losses, excess and distances of the weights that a step starts from."""
    given = of_quadratic(lr=0.05, nbeta=10.0, localization=3.0, steps=3, seed=4)
    found = run_chains(given, 0, 2)
    w = torch.zeros(2, 7)
    for step in range(3):
        losses = 0.5 * (CURVATURE * w**2).sum(1) + (DATA @ w.T).mean(0)
        torch.testing.assert_close(found.losses[:, step], losses.double())
        torch.testing.assert_close(found.excess[:, step], losses.double())
        torch.testing.assert_close(found.statistics[:, step, 0], w.double().square().sum(1))
        slope = CURVATURE * w + DATA.mean(0)
        w = w - 0.025 * (10.0 * slope + 3.0 * w)
        w = w + 0.05**0.5 * normals(2, 7, seed=4, step=step)


@pytest.mark.parametrize("batch_size", [None, 5])
@pytest.mark.parametrize("momentum", [None, 0.5], ids=["plain", "momentum"])
@pytest.mark.parametrize("common_batches", [False, True], ids=["own", "common"])
def test_a_chain_does_not_depend_on_which_others_there_are(batch_size, momentum, common_batches):
    # A sum over samples that all chains share is rounded in an order of its own, too.
    data = DATA[:1] if batch_size is None else DATA
    given = sampling(
        Elementwise(CURVATURE), data, batch_size=batch_size, momentum=momentum,
        common_batches=common_batches,
    )  # fmt: skip
    every = run_chains(given, 0, 5)
    assert same(run_chains(given, 0, 5), every)
    assert same(run_chains(given, 0, 3), every, slice(0, 3))
    assert same(run_chains(given, 2, 2), every, slice(2, 4))
    for chain in range(5):
        assert same(run_chains(given, chain, 1), every, slice(chain, chain + 1))
    parts = [run_chains(given, first, n) for first, n in ((0, 1), (1, 3), (4, 1))]
    assert same(Traces.joined(parts), every)


def test_fewer_steps_are_the_first_of_more():
    short, long = (run_chains(of_quadratic(batch_size=3, steps=n), 0, 3) for n in (6, 15))
    assert torch.equal(short.losses, long.losses[:, :6])


def test_another_seed_is_other_noise_and_other_minibatches():
    first, second = (
        run_chains(of_quadratic(batch_size=5, seed=seed), 0, 2).losses for seed in (0, 1)
    )
    assert not torch.isclose(first[:, 1:], second[:, 1:]).any()


@pytest.mark.parametrize("common", [False, True])
def test_common_batches(common):
    """Chains under common noise differ by their minibatches alone, where they have their own."""
    x = torch.arange(12.0)[:, None].expand(12, 7)
    given = sampling(
        Elementwise(CURVATURE), x, loss_fn=lambda m, x: m(x) + x[:, 0], batch_size=4,
        common_batches=common,
    )  # fmt: skip
    start = run_chains(given, 0, 6).losses[:, 0]  # at zero weights, the mean of their samples
    assert (len(start.unique()) == 1) == common


def test_every_chain_sees_every_sample_as_often():
    """On weights that hardly move a chain's losses add up to the mean of the data's."""
    x = torch.arange(12.0)[:, None].expand(12, 7)
    given = sampling(
        Elementwise(CURVATURE), x, loss_fn=lambda m, x: m(x) + x[:, 0], lr=1e-12, batch_size=4,
        steps=2000,
    )  # fmt: skip
    losses = run_chains(given, 0, 3).losses
    assert losses.mean(1).sub(5.5).abs().max() <= 4 * losses.std() / 2000**0.5
    # Without replacement: (1/m - 1/n) of the variance 13 of 0 to 11.
    assert losses.var().item() == pytest.approx(13 * (1 / 4 - 1 / 12), rel=0.1)


def test_batches_of_unequal_size_are_weighted():
    one = run_chains(of_quadratic(), 0, 3)
    cut = sampling(Elementwise(CURVATURE), [DATA[:1], DATA[1:8], DATA[8:]])
    several = run_chains(cut, 0, 3)
    torch.testing.assert_close(several.losses, one.losses, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(several.statistics, one.statistics, rtol=1e-3, atol=1e-6)
    # In a minibatch, where one cut of the data is as good as another, to the last bit.
    assert same(
        run_chains(
            sampling(Elementwise(CURVATURE), [DATA[:1], DATA[1:8], DATA[8:]], batch_size=4), 0, 2
        ),
        run_chains(of_quadratic(batch_size=4), 0, 2),
    )


def runaway():
    return sampling(
        Cubic(), torch.zeros(1), lr=0.05, nbeta=24.0, localization=0.0, steps=400, seed=3
    )


def test_a_chain_that_diverges_is_masked_and_the_others_do_not_notice():
    found = run_chains(runaway(), 0, 12)
    lost = found.diverged
    assert 2 <= lost.sum() <= 9
    for traces in (found.losses, found.excess, found.statistics[..., 0]):
        ended = traces.isnan()
        assert not ended[~lost].any() and ended[lost, -1].all()
        assert (ended.int().diff(dim=1) >= 0).all()  # once lost, always lost
    assert found.losses[lost].nan_to_num(0.0).abs().max() > 1e10
    for chain in range(12):
        assert same(run_chains(runaway(), chain, 1), found, slice(chain, chain + 1))
    stayed = [i for i in range(11) if not lost[i] and not lost[i + 1]]
    assert stayed
    for i in stayed:
        assert same(run_chains(runaway(), i, 2), found, slice(i, i + 2))


def test_when_all_have_diverged_nothing_more_is_run():
    lost = run_chains(runaway(), 0, 12).diverged.nonzero().flatten()
    done = []
    found = run_chains(runaway(), int(lost[0]), 1, done.append)
    assert found.diverged.all() and found.losses.shape == (1, 400)
    assert sum(done) < 400 and found.losses[0, sum(done) :].isnan().all()


def test_progress_counts_the_steps_of_all_chains():
    done = []
    run_chains(of_quadratic(steps=9), 0, 4, done.append)
    assert sum(done) == 36


def test_float64_is_sampled_in_float64():
    """The same noise: as far from float32 as its rounding makes it."""
    options = {"batch_size": 5, "lr": 0.01}
    single = run_chains(of_quadratic(**options), 0, 2)
    given = sampling(Elementwise(CURVATURE.double()), DATA.double(), **options)
    double = run_chains(given, 0, 2)
    torch.testing.assert_close(single.losses, double.losses, rtol=1e-4, atol=1e-6)
    assert not torch.equal(single.losses, double.losses)
    assert not torch.equal(double.losses.float().double(), double.losses)


def test_a_scalar_parameter():
    alone = run_chains(sampling(Cubic(), torch.zeros(1), steps=5), 0, 1)
    assert same(alone, run_chains(sampling(Cubic(), torch.zeros(1), steps=5), 0, 3), slice(0, 1))


def test_groups_fit_their_memory(monkeypatch):
    given = of_quadratic()
    assert group_size(given, 9, False) == 1
    assert group_size(given, 9, True) == 9
    assert group_size(given, 9, None) == 9  # so small that one after the other is slower
    monkeypatch.setattr(module, "STACKED_BYTES", 3 * 7 * 4 * 5)
    assert group_size(given, 9, True) == 5
    assert group_size(of_quadratic(momentum=0.5), 9, True) == 5
    monkeypatch.setattr(module, "STACKED_BYTES", 1)
    assert group_size(given, 9, True) == 1


def test_data_without_noise_has_no_minibatch_in_it():
    given = sampling(Elementwise(CURVATURE), silence(CURVATURE, 6))
    small = sampling(Elementwise(CURVATURE), silence(CURVATURE, 6), batch_size=2)
    torch.testing.assert_close(run_chains(small, 0, 2).losses, run_chains(given, 0, 2).losses)
