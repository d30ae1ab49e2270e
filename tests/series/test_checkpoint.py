"""Names of checkpoints, and the steps that they tell."""

import pytest

from geomfast.runs.errors import PlanError
from geomfast.series.checkpoint import Checkpoint, apart, in_order, step_of


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("step0", 0),
        ("step143000", 143000),
        ("checkpoint-500", 500),
        ("step-00000012", 12),
        ("global_step300", 300),
        ("stage1-step1000-tokens5B", 1000),
        ("iter_0000100", 100),
        ("Step_8", 8),
        ("main", None),
        ("v2", None),
        ("missteps7", None),
        ("step", None),
        ("stepwise-3", None),
    ],
)
def test_step_of_a_name(name: str, step: int | None) -> None:
    assert step_of(name) == step


def test_by_step_not_by_name() -> None:
    found = in_order(["step1000", "step0", "step64"], "there")
    assert found == (Checkpoint(0, "step0"), Checkpoint(64, "step64"), Checkpoint(1000, "step1000"))


def test_one_alone_need_not_tell_its_step() -> None:
    assert in_order(["main"], "there") == (Checkpoint(0, "main"),)
    assert in_order(["step7"], "there") == (Checkpoint(7, "step7"),)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([], "there: no checkpoints"),
        (["step1", "main"], "'main' does not tell its step"),
        (["step64", "checkpoint-64"], "'step64' and 'checkpoint-64' are both of step 64"),
    ],
)
def test_names_that_do_not_make_a_series(names: list[str], said: str) -> None:
    with pytest.raises(PlanError, match=said):
        in_order(names, "there")


def test_measures_that_share_work_stay_together() -> None:
    names = {"rankme", "llc", "probe_accuracy", "fisher_rank", "hessian_top"}
    alone = [{"hessian_top"}, {"llc"}]
    assert apart(names) == [{"rankme", "probe_accuracy"}, {"fisher_rank"}, *alone]
    both = {"fisher_rank", "gradient_covariance_rank"}
    assert apart(both | {"behaviour"}) == [{"behaviour"}, both]
    curvature = {"hessian_top", "hessian_edge", "hessian_subspace"}
    assert apart(curvature | {"hessian_negative"}) == [{"hessian_negative"}, curvature]
