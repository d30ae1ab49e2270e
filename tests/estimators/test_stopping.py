"""Long measures end between their steps once they are told to, and leave no trace of it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import geomfast
from geomfast.estimators.gradients import gradient_ranks
from geomfast.estimators.stopping import Stopped, check_stop, stopped_by

DATA = (torch.randn(12, 5, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3)


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).eval()


def loss_fn(net: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(net(batch[0]), batch[1], reduction="none")


def halves() -> list[tuple[Tensor, Tensor]]:
    return [(DATA[0][:6], DATA[1][:6]), (DATA[0][6:], DATA[1][6:])]


CHAINS: dict[str, Any] = {"lr": 1e-4, "nbeta": 5.0, "chains": 2, "draws": 6, "burn_in": 2}
MEASURES: dict[str, Callable[[nn.Module], Any]] = {
    "llc": lambda net: geomfast.llc(net, loss_fn, DATA, **CHAINS).loss_trace,
    "llc of minibatches": lambda net: (
        geomfast.llc(net, loss_fn, DATA, batch_size=4, **CHAINS).loss_trace
    ),
    "llc one by one": lambda net: (
        geomfast.llc(net, loss_fn, halves(), stacked=False, **CHAINS).loss_trace
    ),
    "eigenvalues": lambda net: geomfast.hessian_top_eigenvalues(net, loss_fn, DATA, k=2).values,
    "trace": lambda net: torch.tensor(geomfast.hessian_trace(net, loss_fn, DATA, probes=6).mean),
    "density": lambda net: (
        geomfast.hessian_density(net, loss_fn, halves(), probes=2, iterations=4).density
    ),
    "traces of layers": lambda net: torch.tensor(
        [one.mean for one in geomfast.hessian_trace(net, loss_fn, DATA, per_layer=True).values()]
    ),
    "diagonal": lambda net: geomfast.hessian_diagonal(net, loss_fn, halves(), probes=6).mean,
    "inverse": lambda net: (
        geomfast.inverse_hessian_product(net, loss_fn, DATA, torch.ones(66), damping=1.0).x
    ),
    "operator": lambda net: geomfast.hessian_operator(net, loss_fn, halves()) @ torch.ones(66),
    "norms": lambda net: geomfast.gradient_norms(net, loss_fn, DATA),
    "kernel": lambda net: geomfast.ntk(net, lambda net, batch: net(batch[0]), DATA),
    "gram": lambda net: geomfast.gradient_gram(net, loss_fn, DATA),
    "ranks": lambda net: torch.tensor(
        gradient_ranks(net, loss_fn, DATA, first=20, at_once=4)[0].fisher
    ),
    "probes": lambda net: geomfast.probe_accuracy(DATA[0], DATA[1]).mean,
}


@pytest.mark.parametrize("name", MEASURES)
def test_a_measure_ends_wherever_it_is_told_to(name: str) -> None:
    net, take = model(), MEASURES[name]
    whole = take(net)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    asked = 0

    def count() -> bool:
        nonlocal asked
        asked += 1
        return False

    with stopped_by(count):
        assert torch.equal(take(net), whole)  # to be asked changes nothing
    assert asked >= 2
    for wanted in {1, 2, (1 + asked) // 2, asked}:
        left = wanted

        def stop() -> bool:
            nonlocal left
            left -= 1
            return left <= 0

        with stopped_by(stop), pytest.raises(Stopped):
            take(net)
        assert left == 0  # nothing took it for a failure and went on
        assert not net.training and all(p.grad is None for p in net.parameters())
        assert all(torch.equal(net.state_dict()[key], value) for key, value in before.items())
    assert torch.equal(take(net), whole)


def test_nothing_is_asked_outside() -> None:
    check_stop()
    with stopped_by(lambda: True):
        with pytest.raises(Stopped), stopped_by(lambda: False):
            check_stop()
            with stopped_by(lambda: True):
                check_stop()
        with pytest.raises(Stopped):
            check_stop()
    check_stop()


def test_it_is_no_error() -> None:
    with stopped_by(lambda: True), pytest.raises(Stopped):
        try:
            check_stop()
        except Exception:
            pytest.fail("taken for one")
