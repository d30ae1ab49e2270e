"""Leads, ties and lags that were planted."""

import math

import numpy as np
import pytest

from geomfast.analysis import leads, precursors
from geomfast.analysis.leads import COLLAPSE
from tests.analysis.planted import NEVER, STEPS, emerging, later, shift
from tests.analysis.synthetic import join, rows

EVENT = STEPS[45]


def outcome(frame, measure="rankme"):
    return leads(frame, measures=(measure,))["outcome"].item()


def one(checkpoints, **options):
    return emerging({("COPY", 1): EVENT}, ahead={"rankme": checkpoints}, **options)


@pytest.mark.parametrize(
    ("checkpoints", "expected"),
    [(5, "lead"), (1, "lead"), (0, "tie"), (-1, "lag"), (-5, "lag")],
)
def test_on_one_grid_a_checkpoint_decides(checkpoints, expected):
    row = leads(one(checkpoints), measures=("rankme",)).iloc[0]
    assert row["outcome"] == expected
    assert row["emerged"] == EVENT and row["emerged_after"] == later(EVENT, -1)
    assert row["changed"] == later(EVENT, -checkpoints)
    doublings = math.log2((8 + EVENT) / (8 + later(EVENT, -checkpoints)))
    assert row["lead"] == pytest.approx(doublings)


def test_a_lead_shorter_than_the_coarser_series_is_a_tie():
    behaviour = shift("accuracy", EVENT, 0.0, 1.0)
    for every, expected in ((1, "lead"), (4, "tie")):
        steps = sorted({*STEPS[1::every], 0})
        fisher = shift("fisher_rank", later(EVENT, -1), 3.0, 30.0, steps=steps)
        assert outcome(join(behaviour, fisher), "fisher_rank") == expected
    far = shift("fisher_rank", later(EVENT, -9), 3.0, 30.0, steps=sorted({*STEPS[1::4], 0}))
    assert outcome(join(behaviour, far), "fisher_rank") == "lead"


def test_missing_checkpoints_around_the_event_widen_it():
    frame = one(1)
    gone = [later(EVENT, -2), later(EVENT, -1)]
    gap = frame[~(frame["step"].isin(gone) & (frame["measure"] == "accuracy"))]
    assert outcome(frame) == "lead" and outcome(gap) == "tie"


def test_noise_that_hides_the_place_of_a_change_makes_ties():
    found = [outcome(one(2, noise=0.5, seed=seed)) for seed in range(12)]
    assert found.count("tie") > 6
    assert [outcome(one(2, noise=0.05, seed=seed)) for seed in range(5)] == ["lead"] * 5


def test_what_cannot_be_set_against_an_event_is_named():
    changed = {"task": "MOD", "layer": "final"}
    frame = join(
        emerging({("COPY", 1): NEVER, ("REV", 1): STEPS[-3]}, ahead={"rankme": 0}),
        shift("rankme", 200, 2.0, 20.0, **changed),
        shift("accuracy", EVENT, 0.0, 1.0, task="ADD"),
        shift("rankme", 10, 2.0, 20.0, task="ADD", layer="final", steps=STEPS[:6]),
        shift("accuracy", EVENT, 0.0, 1.0, task="MUL"),
        shift("rankme", NEVER, 2.0, 20.0, task="MUL", layer="final", noise=0.001),
    )
    found = leads(frame, measures=("rankme",)).set_index("task")["outcome"].to_dict()
    assert found == {
        "COPY": "never emerged",
        "REV": "pending",
        "MOD": "no behaviour",
        "ADD": "too few checkpoints",
        "MUL": "no change",
    }


def test_emergence_at_the_first_checkpoint_is_preceded_by_nothing():
    frame = join(shift("accuracy", 0, 0.0, 1.0), shift("rankme", 6, 2.0, 20.0, layer="final"))
    assert outcome(frame) == "lag"


def test_half_collapse_is_a_change_too():
    values = np.interp(np.log1p(STEPS), [0, 2, 3, 9], [10.0, 10.0, 2.0, 30.0])
    frame = join(shift("accuracy", EVENT, 0.0, 1.0), rows("rankme", STEPS, values, layer="final"))
    row = leads(frame, measures=(COLLAPSE,)).iloc[0]
    half = next(i for i, value in enumerate(values) if value <= 6.0)
    assert (row["changed"], row["changed_after"]) == (STEPS[half], STEPS[half - 1])
    assert row["outcome"] == "lead"


def test_measures_keep_the_order_asked_for_and_absent_ones_have_no_rows():
    frame = one(2)
    table = leads(frame, measures=("llc", COLLAPSE, "rankme"))
    assert table["measure"].tolist() == [COLLAPSE, "rankme"]
    assert leads(frame[frame["measure"] == "accuracy"]).empty
    assert precursors(leads(frame.iloc[:0])).empty


def test_rates_by_scale_and_level():
    def run(scale, seed, checkpoints):
        when = {("COPY", 1): EVENT, ("COPY", 2): later(EVENT, 2), ("COPY", 3): NEVER}
        return emerging(when, ahead={"rankme": checkpoints}, scale=scale, seed=seed)

    table = leads(
        join(run("nano", 0, 3), run("nano", 1, 0), run("micro", 0, -3)), measures=("rankme",)
    )
    rates = precursors(table).set_index(["scale", "level"])
    whole = rates.loc[("", 0)]
    assert whole[["events", "leads", "ties", "lags", "no_change", "excluded"]].tolist() == [
        6, 2, 2, 2, 0, 3,
    ]  # fmt: skip
    assert whole["rate"] == pytest.approx(1 / 3) and 0 <= whole["low"] < 1 / 3 < whole["high"]
    assert rates.loc[("nano", 1), ["events", "leads"]].tolist() == [2, 1]
    assert rates.loc[("micro", 0), "rate"] == 0.0
    never = rates.loc[("", 3)]
    assert never["events"] == 0 and never["excluded"] == 3 and math.isnan(never["rate"])


def test_measures_of_layers_count_by_their_final_state():
    behaviour = shift("accuracy", EVENT, 0.0, 1.0)
    final = shift("stable_rank", later(EVENT, -5), 1.0, 9.0).assign(layer="final")
    block = shift("stable_rank", later(EVENT, 5), 1.0, 9.0).assign(layer="block 1")
    assert outcome(join(behaviour, final, block), "stable_rank") == "lead"
    # What is not finite does not count, as a condition number that is infinite at first.
    number = shift("condition_number", later(EVENT, -5), 10.0, 900.0).assign(layer="final")
    number.loc[number["step"] < STEPS[3], "value"] = math.inf
    assert outcome(join(behaviour, number), "condition_number") == "lead"
