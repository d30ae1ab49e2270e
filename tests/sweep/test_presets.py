"""Presets: each is a whole sweep, and what its name promises."""

from itertools import pairwise
from typing import Any

import pytest

from geomfast.measures import measures
from geomfast.runs.cadence import measurement_steps
from geomfast.sweep.plan import MEASURE_SETTINGS, Settings, run_specs, settings_of
from geomfast.sweep.presets import PRESETS
from geomfast.testbed.models.scales import SCALES
from geomfast.testbed.training.schedule import checkpoint_steps

#: The paper's five measures, and the probes of its fourth version.
ALL = {
    "rankme",
    "probe_accuracy",
    "fisher_rank",
    "gradient_covariance_rank",
    "hessian_top",
    "llc",
}


def schedule(preset: dict[str, Any]) -> list[int]:
    return checkpoint_steps(
        preset["steps"],
        dense_until=preset["dense_until"],
        dense_every=preset["dense_every"],
        count=preset["checkpoints"],
    )


def settings(preset: dict[str, Any]) -> Settings:
    names = set(Settings.__dataclass_fields__) & set(preset)
    return Settings(**{name: preset[name] for name in names}, learning_rate=None)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_name_every_setting(name: str) -> None:
    grid = {"scales", "seeds", "measures", "cadence"}
    of_measures = {name for names in MEASURE_SETTINGS.values() for name in names}
    by_default = {"learning_rate", "measured_levels", "position", "center", "eps", *of_measures}
    named, existing = set(PRESETS[name]) - grid, set(Settings.__dataclass_fields__)
    assert existing - by_default <= named <= existing
    assert set(PRESETS[name]["scales"]) <= set(SCALES)
    assert set(PRESETS[name]["measures"]) <= set(measures())
    settings_of(settings(PRESETS[name]), "llc")  # chains that can be stable


@pytest.mark.parametrize("name", PRESETS)
def test_a_cadence_leaves_checkpoints_out_and_has_some_of_collapse_and_of_recovery(
    name: str,
) -> None:
    preset = PRESETS[name]
    steps = schedule(preset)
    assert set(preset["cadence"]) <= set(preset["measures"])
    for count in preset["cadence"].values():
        at = measurement_steps(steps, count)
        assert 2 < len(at) == count < len(steps)
        assert any(0 < step <= preset["dense_until"] for step in at)
        assert any(step > preset["dense_until"] for step in at)


def test_dearer_measures_share_their_checkpoints_with_cheaper_ones() -> None:
    for preset in (PRESETS[name] for name in ("nano", "lite", "paper", "glance")):
        counts = sorted({*preset["cadence"].values()})
        steps = schedule(preset)
        for few, many in pairwise(counts):
            assert set(measurement_steps(steps, few)) <= set(measurement_steps(steps, many))


def test_paper_is_the_papers_grid() -> None:
    paper = PRESETS["paper"]
    runs = run_specs(settings(paper), paper["scales"], paper["seeds"])
    assert paper["scales"] == ("nano", "micro", "small", "medium", "large")
    assert len(paper["seeds"]) >= 3 and len(runs) == 5 * len(paper["seeds"])
    assert all(len(run.task_levels) == 24 for run in runs)
    assert len(schedule(paper)) >= 200
    assert set(paper["measures"]) == ALL


def test_lite_has_every_scale_and_every_measure() -> None:
    assert set(PRESETS["lite"]["scales"]) == set(SCALES)
    assert set(PRESETS["lite"]["measures"]) == ALL


def test_glance_has_every_scale_and_all_that_a_sweep_can_measure() -> None:
    glance = PRESETS["glance"]
    assert set(glance["scales"]) == set(SCALES)
    assert set(glance["measures"]) == set(measures())
    # Enough to see collapse, closely while it happens.
    steps = schedule(glance)
    assert 100 <= steps[-1] <= 400 and sum(step <= 60 for step in steps) > 12
    assert len(steps) < 30


def test_smoke_is_cheap_and_nano_is_whole() -> None:
    assert set(PRESETS["smoke"]["measures"]) <= {"rankme", "probe_accuracy"}
    assert PRESETS["smoke"]["scales"] == PRESETS["nano"]["scales"] == ("nano",)
    assert set(PRESETS["nano"]["measures"]) == ALL
