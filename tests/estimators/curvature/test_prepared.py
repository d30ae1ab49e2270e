"""Products that several functions of the Hessian share: prepared once, and let go of in time."""

import gc
import weakref

import pytest
import torch
from torch import nn

import geomfast as gf
from geomfast.estimators.curvature import prepared
from geomfast.estimators.curvature.prepared import checked_products, one_preparation
from tests import cases


def squares(model, x):
    return model(x).square().sum(-1)


@pytest.fixture
def counted(monkeypatch):
    """The products that were prepared, as long as something holds them."""
    made: list[weakref.ref] = []

    def kind(*arguments):
        products = prepared.hessian_products(*arguments)
        made.append(weakref.ref(products))
        return products

    monkeypatch.setitem(prepared.KINDS, "hessian", kind)
    return made


@pytest.fixture
def problem():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)), squares, cases.normal(12, 4)


def measured(problem):
    return (
        gf.hessian_top_eigenvalues(*problem).values[0].item(),
        gf.hessian_trace(*problem, probes=9).mean,
        gf.hessian_density(*problem, probes=2, iterations=5).nodes.tolist(),
    )


def test_three_measures_prepare_once_and_find_the_same(problem, counted):
    alone = measured(problem)
    assert len(counted) == 3
    with one_preparation():
        assert measured(problem) == alone
    assert len(counted) == 4
    assert measured(problem) == alone and len(counted) == 7


@pytest.mark.parametrize("which", [0, 1, 2])
def test_another_model_loss_or_batch_is_prepared_anew(problem, counted, which):
    other = list(problem)
    other[0] = nn.Linear(4, 2) if which == 0 else problem[0]
    other[1] = (lambda model, x: 2 * squares(model, x)) if which == 1 else problem[1]
    other[2] = cases.normal(12, 4) + 1 if which == 2 else problem[2]
    expected = gf.hessian_trace(*other).mean
    with one_preparation():
        gf.hessian_trace(*problem)
        assert gf.hessian_trace(*other).mean == expected
    assert len(counted) == 3


def test_params_are_another_preparation(problem, counted):
    with one_preparation():
        whole = gf.hessian_trace(*problem, probes=60).mean
        part = gf.hessian_trace(*problem, probes=60, params=["0.weight"]).mean
    assert len(counted) == 2 and part != whole


def test_a_graph_is_dropped_where_something_fails_and_at_the_end(problem, counted):
    with one_preparation():
        with pytest.raises(MemoryError), checked_products(*problem, None, "hessian"):
            raise MemoryError
        gc.collect()
        assert counted[0]() is None
        gf.hessian_trace(*problem)
        assert counted[1]() is not None
    gc.collect()
    assert counted[1]() is None


def test_the_model_is_left_as_it_was_after_a_refusal(problem):
    model = problem[0]
    model.register_forward_hook(lambda module, args, out: out + torch.randn_like(out))
    before = [p.clone() for p in model.parameters()]
    with one_preparation(), pytest.raises(ValueError, match="random"):
        gf.hessian_trace(*problem)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert prepared._shared.kept is None
