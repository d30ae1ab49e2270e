"""Change points: where they are planted, and none where there is none."""

import math

import numpy as np
import pytest

from geomfast.analysis.changes import change_point, change_points
from geomfast.analysis.trajectories import log_steps
from geomfast.testbed.training.schedule import checkpoint_steps
from tests.analysis.planted import STEPS, shift
from tests.analysis.synthetic import join, rows

PAPER = np.array(checkpoint_steps(50_000, dense_until=60, dense_every=2, count=220))
COARSE = PAPER[np.linspace(0, len(PAPER) - 1, 24).round().astype(int)]


def test_axis():
    assert log_steps([0, 8, 24]).tolist() == [0.0, 1.0, 2.0]
    assert np.diff(log_steps([4_000, 8_000]))[0] == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("steps", [np.array(STEPS), PAPER, COARSE])
def test_a_step_is_found_where_it_is(steps):
    for index in range(3, len(steps) - 3, 5):
        change = change_point(steps, np.where(np.arange(len(steps)) < index, 1.0, 4.0))
        assert change is not None
        assert (change.at, change.after, change.by) == (index, index - 1, index)
        assert change.size == pytest.approx(3.0)


def test_fewer_than_three_checkpoints_are_no_level():
    values = np.ones(len(STEPS))
    values[-2:] = 5.0
    change = change_point(np.array(STEPS), values)
    assert change is None or change.at == len(STEPS) - 3


@pytest.mark.parametrize("steps", [np.array(STEPS), PAPER, COARSE])
def test_flat_noise_has_none(steps):
    generator = np.random.default_rng(0)
    found = [change_point(steps, generator.standard_normal(len(steps))) for _ in range(400)]
    assert sum(change is not None for change in found) <= 0.06 * 400


@pytest.mark.parametrize("noise", [0.05, 0.3])
def test_the_confidence_set_covers_a_sharp_change(noise):
    generator = np.random.default_rng(1)
    truth, hits, found = 400, 0, 0
    for _ in range(200):
        values = np.where(truth <= PAPER, 1.0, 0.0) + noise * generator.standard_normal(len(PAPER))
        change = change_point(PAPER, values)
        if change is not None:
            found += 1
            hits += PAPER[change.after] < truth <= PAPER[change.by]
    assert found == 200 and hits >= 0.95 * 200


def test_how_closely_checkpoints_lie_does_not_move_a_gradual_change():
    def ramp(steps):
        return np.clip((log_steps(steps) - 3.0) / 6.0, 0.0, 1.0)

    dense = np.unique(np.concatenate([np.arange(0, 1_000, 2), np.geomspace(1_000, 50_000, 20)]))
    places = []
    for steps in (PAPER, dense, COARSE):
        change = change_point(steps, ramp(steps))
        assert change is not None
        places.append(log_steps(steps[change.at]))
    assert np.ptp(places) < 0.7
    assert places[0] == pytest.approx(6.0, abs=0.5)  # the middle of the ramp


def test_too_few_checkpoints_or_nothing_to_fit():
    assert change_point(np.arange(7), np.array([0.0] * 4 + [1.0] * 3)) is None
    assert change_point(np.arange(20), np.full(20, 3.0)) is None


def test_table_of_a_measure():
    frame = join(
        shift("rankme", 200, 2.0, 20.0, layer="final", noise=0.01),
        shift("rankme", 100, 2.0, 20.0, layer="block 1"),
        shift("rankme", 300, 2.0, 2.1, layer="final", task="MOD"),
        shift("rankme", 300, 2.0, 9.0, layer="final", task="ADD", steps=[0, 2, 4]),
        rows("rankme", [0, 1], [1.0, 2.0], layer="final", task="", level=0),
    )
    table = change_points(frame, "rankme", layer="final")
    assert table["task"].tolist() == ["COPY", "ADD", "MOD"]
    copy, add, mod = table.to_dict("records")
    at = min(step for step in STEPS if step >= 200)
    assert copy["step"] == copy["by"] == at and copy["after"] == STEPS[STEPS.index(at) - 1]
    assert copy["change"] == pytest.approx(math.log(10), abs=0.05)
    assert math.isnan(add["step"]) and add["checkpoints"] == 3
    assert math.isnan(mod["step"])  # by a factor of 1.05 only
    assert len(change_points(frame, "rankme")) == 4
    assert change_points(frame, "llc").empty


def test_changes_within_the_errors_of_the_values_do_not_count():
    frame = shift("llc", 200, 2.0, 3.0)
    assert change_points(frame, "llc")["step"].notna().all()
    assert change_points(frame.assign(stderr=0.4), "llc")["step"].notna().all()
    assert change_points(frame.assign(stderr=0.6), "llc")["step"].isna().all()


def test_values_without_a_logarithm_are_left_out():
    frame = shift("hessian_top", 200, 2.0, 30.0)
    frame.loc[:4, "value"] = -1.0
    assert change_points(frame, "hessian_top")["checkpoints"].item() == len(STEPS) - 5
