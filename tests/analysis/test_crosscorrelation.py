"""Lags that were planted, and chance where nothing was."""

import math

import numpy as np
import pytest

from geomfast.analysis import cross_correlation, emergence
from tests.analysis.planted import NEVER, STEPS, cells, emerging, seeds, spread
from tests.analysis.synthetic import join

KEYS = cells(levels=(1, 2))
WHEN = spread(KEYS, first=42, every=2)
#: Doublings of the step in one late checkpoint of STEPS.
CHECKPOINT = math.log2(STEPS[60] / STEPS[50]) / 10


def lead_of(frame, measure="rankme"):
    return cross_correlation(frame, measures=(measure,)).iloc[0]


@pytest.mark.parametrize("checkpoints", [9, 0, -6])
def test_lag(checkpoints):
    row = lead_of(emerging(WHEN, ahead={"rankme": checkpoints}))
    assert row["lead"] == pytest.approx(checkpoints * CHECKPOINT, abs=row["spacing"])
    assert row["correlation"] > 0.5 and row["p_value"] < 0.01
    assert row["low"] - 1e-9 <= row["lead"] <= row["high"] + 1e-9
    assert "one run" in row["how"] and row["task_levels"] == 12


def test_measures_that_fall_are_found_too():
    frame = emerging(WHEN, ahead={"rankme": 6})
    rank = frame["measure"] == "rankme"
    frame.loc[rank, "value"] = 1600.0 / frame.loc[rank, "value"] ** 2
    row = lead_of(frame)
    assert row["correlation"] < -0.5
    assert row["lead"] == pytest.approx(6 * CHECKPOINT, abs=row["spacing"])


def test_a_lead_that_all_share_is_no_sign_of_the_task():
    # RankMe changes at one step for all, whenever the task-level emerges.
    together = dict.fromkeys(KEYS, STEPS[36])
    frame = emerging(WHEN, ahead={})
    rank = emerging(together, ahead={"rankme": 0})
    row = lead_of(join(frame, rank[rank["measure"] == "rankme"]))
    assert row["p_value"] > 0.2
    alike = lead_of(emerging(dict.fromkeys(KEYS, STEPS[45]), ahead={"rankme": 6}, noise=0.0))
    assert alike["p_value"] == 1.0 and alike["lead"] > 0


def test_noise_has_no_lead():
    found, frame = [], emerging(WHEN, ahead={})
    for seed in range(12):
        generator = np.random.default_rng(seed)
        noise = frame[frame["measure"] == "accuracy"].assign(measure="llc")
        noise["value"] = generator.standard_normal(len(noise))
        found.append(lead_of(join(frame, noise), "llc")["p_value"])
    assert sum(p < 0.05 for p in found) <= 2 and np.mean(found) > 0.3


def test_seeds_are_the_unit_where_there_are_several():
    def run(seed):
        return emerging(WHEN, ahead={"rankme": 6 + seed}, seed=seed)

    row = lead_of(seeds(3, run))
    assert row["runs"] == 3 and len(row["leads"]) == 3 and row["task_levels"] == 36
    assert row["how"].startswith("t over seeds")
    assert row["lead"] == pytest.approx(np.mean(row["leads"]))
    assert row["low"] > 0


def test_coarse_series_make_a_coarse_grid():
    frame = emerging(WHEN, ahead={"rankme": 12, "fisher_rank": 0})
    kept = set(STEPS[::6]) | {STEPS[-1]}
    thin = frame[(frame["measure"] != "fisher_rank") | frame["step"].isin(kept)]
    table = cross_correlation(thin, measures=("rankme", "fisher_rank")).set_index("measure")
    assert table.at["rankme", "spacing"] == 0.25
    assert table.at["fisher_rank", "spacing"] > 0.8
    assert table.at["fisher_rank", "lead"] == 0.0


def test_what_never_emerged_is_left_out_and_three_are_too_few():
    some = {key: step if index < 5 else NEVER for index, (key, step) in enumerate(WHEN.items())}
    assert lead_of(emerging(some, ahead={"rankme": 3}))["task_levels"] == 5
    few = {key: step if index < 3 else NEVER for index, (key, step) in enumerate(WHEN.items())}
    assert cross_correlation(emerging(few, ahead={"rankme": 3})).empty
    frame = emerging(WHEN, ahead={"rankme": 3})
    assert cross_correlation(frame[frame["measure"] == "rankme"]).empty
    assert cross_correlation(frame, measures=("llc",)).empty


def test_four_task_levels_are_tried_in_every_pairing():
    some = spread(KEYS[:4], first=42, every=7)
    row = lead_of(emerging(some, ahead={"rankme": 6}))
    assert row["p_value"] == pytest.approx(1 / 24)


def test_gaps_in_the_checkpoints():
    frame = emerging(WHEN, ahead={"rankme": 9})
    kept = np.random.default_rng(0).random(len(frame)) > 0.2
    row = lead_of(frame[kept])
    assert row["lead"] == pytest.approx(9 * CHECKPOINT, abs=0.3)


def test_events_by_another_rule_say_what_counts():
    records = emerging(WHEN, ahead={"rankme": 9})
    events = emergence(records)
    assert cross_correlation(records, events=events).equals(cross_correlation(records))
    few = events.assign(step=events["step"].where(events["level"] == 1))
    assert cross_correlation(records, measures=("rankme",), events=few)["task_levels"].max() == 6
