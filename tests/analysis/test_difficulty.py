"""Early geometry against emergence order, with known correlations."""

import math

import numpy as np
import pytest
from scipy import stats

from geomfast.analysis import early_correlation, early_geometry, emergence
from tests.analysis.planted import NEVER, STEPS, cells, emerging, later, shift, spread
from tests.analysis.synthetic import join

KEYS = cells()
WHEN = spread(KEYS)


def ranked(order, when=WHEN):
    """RankMe that goes up with ``order``, a number for each of KEYS, until after emergence."""
    early = {key: 2.0 + 0.1 * value for key, value in zip(KEYS, order, strict=True)}
    return emerging(when, ahead={"rankme": -1}, early=early, noise=0.0)


def rho(frame, geometry="early"):
    table = early_correlation(early_geometry(frame)).set_index("geometry")
    return table.at[geometry, "rho"]


def test_perfect_reversed_and_shuffled():
    assert rho(ranked(range(18))) == pytest.approx(1.0)
    assert rho(ranked(range(18)[::-1])) == pytest.approx(-1.0)
    order = np.random.default_rng(3).permutation(18)
    expected = stats.spearmanr(order, range(18)).statistic
    assert rho(ranked(order)) == pytest.approx(expected)


def test_early_is_before_the_first_emergence_of_the_run():
    frame = ranked(range(18))
    table = early_geometry(frame)
    first = STEPS[40]
    assert (table["early_step"] == later(first, -1)).all()
    # What RankMe is from then on does not matter.
    rank = (frame["measure"] == "rankme") & (frame["step"] >= first)
    frame.loc[rank, "value"] = np.random.default_rng(0).random(rank.sum())
    assert rho(frame) == pytest.approx(1.0)


def test_initialisation_stands_beside_it():
    frame = ranked(range(18))
    at_first = (frame["measure"] == "rankme") & (frame["step"] == 0)
    frame.loc[at_first, "value"] = 12.0 - frame.loc[at_first, "value"]
    assert rho(frame, "early") == pytest.approx(1.0)
    assert rho(frame, "initial") == pytest.approx(-1.0)


def test_those_that_never_emerged_share_the_last_rank():
    when = {key: step if index < 12 else NEVER for index, (key, step) in enumerate(WHEN.items())}
    when[KEYS[12]] = STEPS[-2]  # pending
    table = early_geometry(ranked(range(18), when))
    assert table["censored"].sum() == 6 and np.isinf(table["emerged"]).sum() == 6
    row = early_correlation(table).iloc[0]
    expected = stats.spearmanr(range(18), [*range(12), *[99] * 6]).statistic
    assert row["rho"] == pytest.approx(expected) and 0.9 < expected < 1.0
    assert (row["task_levels"], row["censored"]) == (18, 6)


def test_interval_of_one_run():
    row = early_correlation(early_geometry(ranked(np.random.default_rng(3).permutation(18)))).iloc[
        0
    ]
    half = 1.96 * math.sqrt((1 + row["rho"] ** 2 / 2) / 15)
    assert math.atanh(row["high"]) - math.atanh(row["rho"]) == pytest.approx(half, rel=1e-3)


def test_equal_geometry_has_no_correlation():
    assert math.isnan(rho(ranked([0.0] * 18)))


def test_runs_that_cannot_be_correlated_are_left_out():
    few = {key: WHEN[key] for key in KEYS[:5]}
    assert early_correlation(early_geometry(emerging(few))).empty
    rare = {key: WHEN[key] if index < 2 else NEVER for index, key in enumerate(KEYS)}
    assert early_correlation(early_geometry(emerging(rare))).empty
    assert early_geometry(emerging(dict.fromkeys(KEYS, NEVER))).empty
    at_once = join(emerging(WHEN), shift("accuracy", 0, 0.0, 1.0, task="MOD"))
    assert early_geometry(at_once).empty  # nothing comes before the first checkpoint
    frame = emerging(WHEN)
    assert early_geometry(frame[frame["measure"] == "accuracy"]).empty
    assert early_correlation(early_geometry(frame.iloc[:0])).empty


def test_events_by_another_rule_say_when():
    records = ranked(range(18))
    events = emergence(records)
    assert early_geometry(records, events=events).equals(early_geometry(records))
    turned = events.assign(step=events["step"].to_numpy()[::-1], other="x")
    found = early_correlation(early_geometry(records, events=turned)).set_index("geometry")
    assert found.at["early", "rho"] == pytest.approx(-1.0)
