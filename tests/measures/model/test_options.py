"""Every setting that cannot be right is refused where it is given, by its name."""

import dataclasses
import math

import numpy as np
import pytest
import torch

import geomfast as gf
from geomfast.measures import spec_of
from geomfast.measures.model.measuring import MEASURES, Options
from geomfast.measures.model.options import ModelSettings
from tests.tracker.tracked import batch, loss_fn, net

WHOLE = {
    "samples": 2, "batch_size": 1, "fisher_rank.first_entries": 1,
    "gradient_covariance_rank.first_entries": 1, "hessian_top.k": 1,
    "hessian_top.max_iterations": 1, "hessian_trace.probes": 6, "hessian_density.probes": 1,
    "hessian_density.iterations": 2, "llc.chains": 1, "llc.draws": 1, "llc.burn_in": 0,
    "llc.batch_size": 1, "llc.seed": 0, "hessian_top.seed": 0,
    "hessian_trace.seed": 0, "hessian_density.seed": 0, "alpha_req.first": 1,
    "hessian_subspace.k": 1,
    "hessian_subspace.max_iterations": 1, "hessian_subspace.seed": 0, "hessian_edge.k": 1,
    "hessian_edge.max_iterations": 1, "hessian_edge.seed": 0, "hessian_negative.probes": 1,
    "hessian_negative.iterations": 2, "hessian_negative.seed": 0,
}  # fmt: skip
POSITIVE = ("hessian_top.tol", "llc.lr", "llc.nbeta", "hessian_subspace.tol", "hessian_edge.tol")
POSITIVE = (*POSITIVE, "hessian_edge.lr")
NOT_NEGATIVE = ("rankme.eps", "centered_rankme.eps", "llc.localization", "llc.momentum")
SPECTRA = ("alpha_req", "participation_ratio", "stable_rank", "numerical_rank")
SPECTRA += ("first_component_share", "condition_number")
TRUTH = ("rankme.center", "check", "cka.debiased", *(f"{name}.center" for name in SPECTRA))


def taken(name, value):
    """The value as settings have it that are asked for with it, by a dotted name."""
    measure, dot, setting = name.rpartition(".")
    if not dot:
        return getattr(ModelSettings(**{name: value}), name)
    how = ModelSettings.asked({measure: {setting: value}})
    return getattr(how.settings_of(measure), setting)


def message(name, rest):
    return f"{name.replace('.', ': ')} {rest}"


def test_every_setting_is_checked():
    told = {*WHOLE, *POSITIVE, *NOT_NEGATIVE, *TRUTH, "position", "params", "own"}
    told |= {"llc.max_draws"}  # as many as draws at least
    told |= {"alpha_req.last", "numerical_rank.tol", "two_nn.fraction"}
    there = {field.name for field in dataclasses.fields(ModelSettings)}
    there |= {f"{name}.{key}" for name in MEASURES for key in spec_of(name).defaults}
    assert there == told


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("alpha_req.last", 8, "alpha_req: first = 5 to last = 8 are fewer than 5 eigenvalues"),
        ("alpha_req.last", 5.5, "alpha_req: last must be a whole number"),
        ("numerical_rank.tol", 1e-9, "numerical_rank: tol must be 1e-7 or more, not 1e-09"),
        ("numerical_rank.tol", 1.0, "numerical_rank: tol must be less than 1"),
        ("two_nn.fraction", 1.1, "two_nn: fraction must be at most 1, not 1.1"),
        ("two_nn.fraction", 0.0, "two_nn: fraction must be a finite number, above 0"),
    ],
)
def test_settings_within_a_range(name, value, said):
    with pytest.raises((TypeError, ValueError), match=said):
        taken(name, value)


@pytest.mark.parametrize("most", [0, 99, 1.5, "3"])
def test_chains_run_on_to_no_fewer_draws_than_they_have(most):
    with pytest.raises((TypeError, ValueError), match="llc: max_draws must be"):
        taken("llc.max_draws", most)
    assert taken("llc.max_draws", 100) == 100 and taken("llc.draws", 7) == 7


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("wrong", [1.5, True, "3", math.nan, [1], 2.0])
def test_no_whole_number(name, wrong):
    said = message(name, r"must be a whole number, \d+ or more, not ")
    with pytest.raises(TypeError, match=said):
        taken(name, wrong)


@pytest.mark.parametrize(("name", "least"), WHOLE.items())
def test_whole_numbers_that_are_too_small(name, least):
    with pytest.raises(ValueError, match=message(name, f"must be a whole number, {least} or more")):
        taken(name, least - 1)
    for number in (np.int64(least), torch.tensor(least)):
        assert type(taken(name, number)) is int


@pytest.mark.parametrize("name", [*POSITIVE, *NOT_NEGATIVE])
@pytest.mark.parametrize("wrong", [math.nan, math.inf, -1.0, -1e-300])
def test_numbers_out_of_range(name, wrong):
    with pytest.raises(ValueError, match=message(name, "must be a finite number, ")):
        taken(name, wrong)
    if name in POSITIVE:
        with pytest.raises(ValueError, match=message(name, ".* above 0, not")):
            taken(name, 0)
    assert taken(name, np.float32(0.5)) == 0.5


@pytest.mark.parametrize("name", [*POSITIVE, *NOT_NEGATIVE])
@pytest.mark.parametrize("wrong", ["x", True, b"1", [1.0], 1j])
def test_no_numbers(name, wrong):
    with pytest.raises(TypeError, match=message(name, "must be a finite number, ")):
        taken(name, wrong)


@pytest.mark.parametrize("name", TRUTH)
@pytest.mark.parametrize("wrong", [1, "yes", None])
def test_neither_true_nor_false(name, wrong):
    with pytest.raises(TypeError, match=message(name, "must be True or False")):
        taken(name, wrong)


@pytest.mark.parametrize("wrong", [5, [], "", ["!"], [3], {"a": 1}, b"head.*"])
def test_params_that_are_no_names(wrong):
    with pytest.raises(TypeError, match="params must be names of parameters"):
        ModelSettings(params=wrong)


def test_an_unknown_position():
    with pytest.raises(ValueError, match="position must be one of last, mean, flat, not 'first'"):
        ModelSettings(position="first")


def test_params_are_recorded_only_where_they_are_given():
    assert "params" not in ModelSettings().of("llc")
    how = ModelSettings(params="!head.*")
    for measure in ("fisher_rank", "hessian_top", "hessian_trace", "llc"):
        assert how.of(measure)["params"] == ["!head.*"]
    assert "params" not in how.of("rankme")


def test_fewer_products_than_eigenvalues():
    with pytest.raises(ValueError, match="hessian_top: max_iterations must be k = 5 or more"):
        ModelSettings.asked({"hessian_top": {"k": 5, "max_iterations": 4}})


def test_names_of_a_commands_options():
    how = ModelSettings.named(samples=9, llc_lr=1e-4, hessian_trace_probes=8)
    assert how == ModelSettings.asked(
        {"llc": {"lr": 1e-4}, "hessian_trace": {"probes": 8}}, samples=9
    )
    with pytest.raises(TypeError, match="no measure has a setting 'learning_rate'"):
        ModelSettings.named(learning_rate=1.0)


def test_old_names_are_the_same_settings_and_warn():
    old = {
        "samples": 9, "center": True, "eps": 1e-6, "first_entries": 10, "hessian_k": 2,
        "hessian_tol": 0.1, "hessian_iterations": 9, "hessian_probes": 7, "density_probes": 2,
        "density_iterations": 8, "llc_lr": 1e-4, "llc_draws": 3, "llc_batch_size": None, "seed": 5,
    }  # fmt: skip
    with pytest.warns(DeprecationWarning, match="is deprecated: give its settings to the call"):
        found = Options(**old)
    ranks = {"first_entries": 10}
    assert found == ModelSettings.asked(
        {
            "rankme": {"center": True, "eps": 1e-6},
            "fisher_rank": ranks,
            "gradient_covariance_rank": ranks,
            "hessian_top": {"k": 2, "tol": 0.1, "max_iterations": 9, "seed": 5},
            "hessian_trace": {"probes": 7, "seed": 5},
            "hessian_density": {"probes": 2, "iterations": 8, "seed": 5},
            "llc": {"lr": 1e-4, "draws": 3, "batch_size": None, "seed": 5},
        },
        samples=9,
    )
    with pytest.warns(DeprecationWarning), pytest.raises(TypeError, match="unexpected keyword"):
        Options(no_such_option=1)


def test_a_tracker_takes_old_and_new_ones_alike(tmp_path):
    with pytest.warns(DeprecationWarning):
        old = Options(llc_draws=3, samples=10)
    given = {"measures": "llc", "out": tmp_path, "max_overhead": None}
    gf.Tracker(net(), loss_fn, batch(), options=old, **given).close()
    gf.Tracker(net(), loss_fn, batch(), samples=10, llc={"draws": 3}, **given).close()


def test_what_is_recorded_of_settings():
    """Whose hashes stand in records."""
    assert ModelSettings().of("llc") == {
        "measure": "llc", "samples": None, "lr": "auto", "localization": "norm", "momentum": None,
        "chains": 4, "draws": 100, "burn_in": 25, "max_draws": 400, "batch_size": 32,
        "nbeta": "n / log n", "seed": 0,
    }  # fmt: skip
    assert ModelSettings().of("fisher_rank") == {
        "measure": "fisher_rank", "samples": None, "labels": "data", "first entries": 50_000,
    }  # fmt: skip


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
        ({"params": "!pooler.*", "measures": "llc"}, ValueError, "pooler"),
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
