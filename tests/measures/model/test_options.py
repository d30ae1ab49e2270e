"""Every setting that cannot be right is refused where it is given, by its name."""

import dataclasses
import math

import numpy as np
import pytest
import torch

import geomfast as gf
from geomfast.measures.model.measuring import Options
from tests.tracker.tracked import batch, loss_fn, net

WHOLE = {
    "samples": 2, "batch_size": 1, "first_entries": 1, "hessian_k": 1, "hessian_iterations": 1,
    "hessian_probes": 6,
    "density_probes": 1,
    "density_iterations": 2, "llc_chains": 1, "llc_draws": 1, "llc_burn_in": 0, "llc_batch_size": 1,
    "seed": 0,
}  # fmt: skip
POSITIVE = ("hessian_tol", "llc_lr", "llc_nbeta")
NOT_NEGATIVE = ("eps", "llc_localization")


def test_every_setting_is_checked():
    told = {*WHOLE, *POSITIVE, *NOT_NEGATIVE, "position", "center", "check", "params"}
    assert {field.name for field in dataclasses.fields(Options)} == told


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("wrong", [1.5, True, "3", math.nan, [1], 2.0])
def test_no_whole_number(name, wrong):
    with pytest.raises(TypeError, match=rf"{name} must be a whole number, \d+ or more, not "):
        Options(**{name: wrong})


@pytest.mark.parametrize(("name", "least"), WHOLE.items())
def test_whole_numbers_that_are_too_small(name, least):
    with pytest.raises(ValueError, match=f"{name} must be a whole number, {least} or more"):
        Options(**{name: least - 1})
    for number in (np.int64(least), torch.tensor(least)):
        assert type(getattr(Options(**{name: number}), name)) is int


@pytest.mark.parametrize("name", [*POSITIVE, *NOT_NEGATIVE])
@pytest.mark.parametrize("wrong", [math.nan, math.inf, -1.0, -1e-300])
def test_numbers_out_of_range(name, wrong):
    with pytest.raises(ValueError, match=f"{name} must be a finite number, "):
        Options(**{name: wrong})
    if name in POSITIVE:
        with pytest.raises(ValueError, match=f"{name} must be a finite number, above 0, not 0"):
            Options(**{name: 0})
    assert getattr(Options(**{name: np.float32(0.5)}), name) == 0.5


@pytest.mark.parametrize("name", [*POSITIVE, *NOT_NEGATIVE])
@pytest.mark.parametrize("wrong", ["x", True, b"1", [1.0], 1j])
def test_no_numbers(name, wrong):
    with pytest.raises(TypeError, match=f"{name} must be a finite number, "):
        Options(**{name: wrong})


@pytest.mark.parametrize("name", ["center", "check"])
@pytest.mark.parametrize("wrong", [1, "yes", None])
def test_neither_true_nor_false(name, wrong):
    with pytest.raises(TypeError, match=f"{name} must be True or False"):
        Options(**{name: wrong})


@pytest.mark.parametrize("wrong", [5, [], "", ["!"], [3], {"a": 1}, b"head.*"])
def test_params_that_are_no_names(wrong):
    with pytest.raises(TypeError, match="params must be names of parameters"):
        Options(params=wrong)


def test_params_are_recorded_only_where_they_are_given():
    assert "params" not in Options().of("llc")
    options = Options(params="!head.*")
    for measure in ("fisher_rank", "hessian_top", "hessian_trace", "llc"):
        assert options.of(measure)["params"] == ["!head.*"]
    assert "params" not in options.of("rankme")


def test_fewer_products_than_eigenvalues():
    with pytest.raises(ValueError, match="hessian_iterations must be hessian_k = 5 or more"):
        Options(hessian_k=5, hessian_iterations=4)


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"seed": 1.5}, TypeError, "seed must be a whole number, not 1.5"),
        ({"seed": True}, TypeError, "seed must be a whole number"),
        ({"seed": 1 << 70}, ValueError, "seed must be a whole number of 64 bits"),
        ({"states": 5}, TypeError, r"states must be a function, states\(model\)"),
        ({"states": lambda m: {"mine": torch.ones(4, 2)}}, ValueError, "gives a layer 'mine'"),
        ({"states": lambda m: {"block 7": torch.ones(4, 2)}}, ValueError, "layer 'block 7'"),
        ({"states": lambda m: {}}, TypeError, r"states\(model\) must give"),
        ({"states": lambda m: {"final": torch.ones(4)}}, TypeError, r"must give tensors \(N, d\)"),
        ({"max_overhead": math.nan}, ValueError, "max_overhead must be above 0"),
        ({"max_overhead": True}, ValueError, "max_overhead must be above 0"),
        ({"total_steps": 2.5}, ValueError, "total_steps must be a whole number"),
        ({"out": 5}, TypeError, "out must be the path of a folder"),
        ({"out": ""}, TypeError, "out must be the path of a folder"),
        ({"run": ".."}, ValueError, "run must be a name without a slash"),
        ({"scale": 3}, ValueError, "scale must be a name"),
        ({"device": "gpu9"}, ValueError, "device must be one of torch's"),
        ({"raise_failures": "yes"}, TypeError, "raise_failures must be True or False"),
        ({"options": Options(params="!pooler.*"), "measures": "llc"}, ValueError, "pooler"),
    ],
)
def test_trackers_that_could_only_fail(given, error, said, tmp_path):
    with pytest.raises(error, match=said):
        gf.Tracker(net(), loss_fn, batch(), **{"out": tmp_path / "out", **given})
    assert not (tmp_path / "out").exists()


def test_models_without_shapes_or_values(tmp_path):
    for model, said in (
        (torch.nn.LazyLinear(3), "weight has no shape yet: run the model once"),
        (torch.nn.Linear(2, 3, device="meta"), "weight is on the meta device"),
    ):
        with pytest.raises(ValueError, match=said):
            gf.Tracker(model, loss_fn, batch(), out=tmp_path)


def test_states_of_ones_own_are_read_back(tmp_path):
    x = batch()[0]
    states = lambda model: {"block 1": x, "block 2": x, "final": model(x)}  # noqa: E731
    with gf.Tracker(net(), loss_fn, batch(), states=states, out=tmp_path) as tracker:
        tracker.step(0)
    layers = gf.load_records(tmp_path).query("measure == 'rankme'")["layer"].tolist()
    assert layers == ["block 1", "block 2", "final"]
