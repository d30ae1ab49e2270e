"""All claims together: their order, what is missing, and what they say of the paper."""

import math

import pandas as pd
import pytest

from geomfast.analysis import CLAIMS, REFERENCES, claims
from geomfast.analysis.claim import NOT_ENOUGH, VERDICTS
from geomfast.analysis.claims.events import emerged
from geomfast.analysis.claims.floors import mod_floor, scale_invariant_floors
from geomfast.analysis.claims.layers import top_down
from geomfast.analysis.claims.prediction import swaps
from tests.analysis.planted import NEVER, STEPS, cells, emerging, seeds, shift, spread
from tests.analysis.synthetic import CHANCE, join, rows, sweep

KEYS = cells()


def by_name(records, **options):
    return {claim.name: claim for claim in claims(records, **options)}


@pytest.fixture(scope="module")
def whole():
    runs = [("nano", 2, 0), ("nano", 2, 1), ("micro", 4, 0), ("micro", 4, 1)]
    grid = {"tasks": ["COPY", "SORT", "MUL", "MOD"], "levels": [1, 3]}
    return join(*(sweep(scale=s, blocks=b, seed=k, **grid) for s, b, k in runs))


def test_a_planted_sweep(whole):
    found = by_name(whole)
    assert list(found) == [judge.__name__ for judge in CLAIMS]
    for claim in found.values():
        assert claim.verdict in VERDICTS and claim.title and claim.statement
        assert claim.reason and claim.criterion and claim.unit
        assert isinstance(claim.table, pd.DataFrame)
        assert math.isnan(claim.low) == math.isnan(claim.high) == (claim.interval == "")
        if not math.isnan(claim.low):
            assert claim.low - 1e-9 <= claim.value <= claim.high + 1e-9
        if claim.verdict != NOT_ENOUGH:
            assert claim.measured and claim.n and not math.isnan(claim.value)
    for name in ("emerged", "collapsed", "mod_floor", "scale_invariant_floors", "top_down"):
        assert found[name].verdict == ("partly" if name == "emerged" else "holds"), name
    assert found["emerged"].n["events"] == 28  # MUL-3 never does
    for name, what in (("llc_synchronous", "llc"), ("hessian_lags", "hessian_top")):
        assert found[name].verdict == NOT_ENOUGH and f"no {what} of" in found[name].reason


def test_the_papers_values():
    names = {judge.__name__ for judge in CLAIMS} | {"pythia_global", "pythia_tasks"}
    for version, values in REFERENCES.items():
        assert set(values) <= names, version
    found = by_name(rows("accuracy", [0, 1], [0, 1]))
    assert found["swaps"].paper == {"v1": "26%", "v3": "26%", "v4": None}
    assert found["mod_floor"].paper == {"v1": 2.0, "v3": 2.0, "v4": 2.0}
    assert found["cross_correlation"].paper == dict.fromkeys(REFERENCES)


@pytest.mark.parametrize("measure", ["rankme", "accuracy"])
def test_a_missing_measure_is_named_and_the_rest_reported(whole, measure):
    found = by_name(whole[whole["measure"] != measure])
    if measure == "accuracy":
        assert "no accuracy" in found["geometry_leads"].reason
        assert found["top_down"].verdict == found["mod_floor"].verdict == "holds"
    else:
        assert found["emerged"].verdict == "partly"
        assert sum(claim.verdict != NOT_ENOUGH for claim in found.values()) == 1
        assert "RankMe" in found["collapsed"].reason and "RankMe" in found["top_down"].reason


def test_missing_scales_and_seeds_are_named(whole):
    nano = whole[whole["scale"] == "nano"]
    assert "there is only nano" in scale_invariant_floors(nano).reason
    assert "there is: nano" in swaps(nano).reason
    assert "4 blocks or more; there is nano (2)" in top_down(nano).reason
    assert "other scales than nano are missing" in mod_floor(nano).reason
    one_seed = scale_invariant_floors(whole[whole["seed"] == 0])
    assert one_seed.verdict == NOT_ENOUGH and "more seeds" in one_seed.reason
    assert one_seed.value < 0.05  # said all the same


@pytest.mark.parametrize("keep", [0, 1, 2])
def test_next_to_nothing_is_not_enough_for_anything(whole, keep):
    few = sorted(whole["step"].unique())[:keep]
    assert all(claim.verdict == NOT_ENOUGH for claim in claims(whole[whole["step"].isin(few)]))


def test_the_mixture_is_no_task_level():
    frame = rows("llc", STEPS, [1.0] * len(STEPS), task="", level=0)
    assert all(claim.verdict == NOT_ENOUGH for claim in claims(frame))


def test_chance_is_the_tasks_own_unless_given():
    # Of a parity one in two is right by guessing.
    guessing = join(*(shift("accuracy", 6, 0.0, 0.55, task=t) for t in ("PAR", "COPY")))
    assert by_name(guessing)["emerged"].n["events"] == 1
    assert by_name(guessing, chance={})["emerged"].n["events"] == 2
    assert by_name(guessing.assign(task="A" + guessing["task"]))["emerged"].n["events"] == 2
    assert emerged(guessing).n["events"] == 2 and emerged(guessing, chance=CHANCE).n["events"] == 1


def test_emerged_holds():
    claim = emerged(seeds(3, lambda seed: emerging(spread(KEYS, every=1), seed=seed)))
    assert claim.verdict == "holds" and claim.value == 1.0
    assert claim.n["combinations"] == 18 and "18 of 18 combinations" in claim.measured
    assert claim.low > 0.9 and "3 seeds" not in claim.interval and "t over seeds" in claim.interval


def test_emerged_partly_and_not():
    def some(count, **run):
        when = {key: STEPS[40] if i < count else NEVER for i, key in enumerate(KEYS)}
        return emerging(when, ahead={}, **run)

    assert emerged(some(12)).verdict == "partly"
    claim = emerged(some(4))
    assert claim.verdict == "does not hold" and "4 of 18 task-levels" in claim.reason
    # A task-level emerged at a scale when at least half of its seeds have.
    mixed = emerged(join(some(12, seed=0), some(6, seed=1)))
    assert "12 of 18 combinations" in mixed.measured and mixed.value == 0.5
    by_level = mixed.table.set_index(["task", "level"])["emerged"]
    assert by_level.loc[("COPY", 1)] == 2 and by_level.loc[("COPY", 2)] == 1
    assert by_level.loc[("COPY", 3)] == 0


def test_emerged_cannot_be_told_from_short_runs():
    late = {key: STEPS[-6] if i < 4 else NEVER for i, key in enumerate(KEYS)}
    assert emerged(emerging(late, ahead={})).verdict == NOT_ENOUGH  # events still coming
    pending = {key: STEPS[-2] if i < 4 else NEVER for i, key in enumerate(KEYS)}
    claim = emerged(emerging(pending, ahead={}))
    assert claim.verdict == NOT_ENOUGH and "4 more are pending" in claim.reason
    short = rows("accuracy", range(0, 400, 20), [0.0] * 20, scale="micro")
    assert "longer runs are missing" in emerged(short).reason
    # A long run beside it does not make it long.
    long = emerging(dict.fromkeys(KEYS, NEVER), ahead={})
    assert emerged(long).verdict == "does not hold"
    both = emerged(join(long, short))
    assert both.verdict == NOT_ENOUGH and "380 to 6,000 steps" in both.reason
