"""Steps that chains find for themselves: judged by first draws, which count where it is good."""

import pytest
import torch

import geomfast as gf
from geomfast.estimators.sampling import steps as module
from geomfast.estimators.sampling.rules import BURN_IN, PILOT_DRAWS
from tests.estimators.sampling.cases import Quadratic, noise, output, silence

NARROW = torch.linspace(0.2, 1.0, 100)
OPTIONS = {"nbeta": 1000.0, "localization": 50.0, "chains": 4}


def found(data, **options):
    done = []
    one = gf.llc(Quadratic(NARROW), output, data, **OPTIONS | options, progress=done.append)
    return one, sum(done)


@pytest.mark.parametrize("stacked", [True, False])
@pytest.mark.parametrize("more", [{}, {"max_draws": 300}, {"batch_size": 32}])
def test_chains_of_a_good_step_run_on_from_its_trial(more, stacked):
    one, steps = found(0.01 * noise(64, NARROW), draws=100, stacked=stacked, **more)
    chains, taken = one.loss_trace.shape
    # One chain after the other, with nothing to run on for, begins again: that saves memory.
    again = not stacked and "max_draws" not in more
    assert steps == chains * (taken + again * (taken - 100 + PILOT_DRAWS))
    plain, _ = found(
        0.01 * noise(64, NARROW), draws=100, lr=one.lr, momentum=one.momentum,
        burn_in=taken - 100, stacked=stacked, **more,
    )  # fmt: skip
    assert torch.equal(one.loss_trace, plain.loss_trace)
    assert (one.mean, one.stderr, one.ess) == (plain.mean, plain.stderr, plain.ess)


def test_chains_of_a_refused_step_end_with_its_trial():
    hot, steps = found(noise(64, NARROW), draws=100, batch_size=4, stacked=True)
    cold, _ = found(silence(NARROW), draws=100, stacked=True)
    assert hot.lr < cold.lr
    trials = (steps - hot.loss_trace.numel()) / 4
    assert trials >= PILOT_DRAWS + BURN_IN


def test_draws_that_are_observed_are_those_of_chains_that_count():
    data = silence(NARROW)
    one, steps = found(data, draws=100, observe={"same": data}, keep_losses=True)
    assert one.losses is not None and one.losses.shapes["data"][1] == 100
    assert steps > one.loss_trace.numel()
    assert one.observed["same"].mean == pytest.approx(one.mean, rel=1e-3)


def test_an_error_that_the_trial_meets_is_enough():
    one, steps = found(silence(NARROW), relative_stderr=0.5, stacked=True)
    assert "was met after" in one.verdict
    assert steps == one.loss_trace.numel()


def test_all_chains_of_a_trial_that_diverge_are_tried_with_a_smaller_step(monkeypatch):
    right = module.top_curvature

    def too_small(*arguments, **options):
        return 0.05 * right(*arguments, **options)

    monkeypatch.setattr(module, "top_curvature", too_small)
    one, _ = found(silence(NARROW), draws=100, stacked=True)
    assert not one.diverged.any()
    assert one.mean == pytest.approx(50.0 * 1000 / 1050, rel=0.2)


def test_fewer_draws_than_a_trial_are_not_exceeded():
    one, _ = found(silence(NARROW), draws=4, max_draws=9, relative_stderr=1e-6, stacked=True)
    assert one.loss_trace.shape[1] <= 9 + BURN_IN
    plain, _ = found(
        silence(NARROW), draws=4, max_draws=9, relative_stderr=1e-6, stacked=True,
        lr=one.lr, momentum=one.momentum, burn_in=one.loss_trace.shape[1] - 9,
    )  # fmt: skip
    assert torch.equal(one.loss_trace, plain.loss_trace)
