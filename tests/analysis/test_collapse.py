"""Floor, recovery and half-collapse on trajectories whose answer is known."""

import math

import pytest

from geomfast.analysis import cells, collapse, half_collapse, mod_floor, summarise
from tests.analysis.synthetic import CHANCE, join, rows, sweep

STEPS = list(range(0, 100, 10))


def one(values, **options):
    frame = rows("rankme", STEPS[: len(values)], values, layer="final")
    return collapse(frame, **options).iloc[0]


def test_floor_depth_and_recovery():
    row = one([10, 8, 4, 2, 2, 3, 7, 8, 9, 20])
    assert (row["initial"], row["floor"], row["floor_step"], row["final"]) == (10, 2, 30, 20)
    assert row["depth"] == pytest.approx(0.8)
    assert row["recovery_step"] == 60  # half of the 8 that were lost is back at 6
    assert row["collapsed"] and row["recovered"]


def test_recovery_must_be_held_for_three_checkpoints_or_to_the_end():
    assert one([10, 2, 7, 7, 3, 7, 7, 7, 3, 3])["recovery_step"] == 50
    assert one([10, 2, 7, 7, 3, 3, 3, 3, 7, 7])["recovery_step"] == 80
    assert math.isnan(one([10, 2, 7, 7, 3, 3, 3, 3, 7, 3])["recovery_step"])


def test_rising_above_the_initial_value_is_more_than_recovering():
    row = one([10, 2, 7, 7, 7, 11, 12, 10.5, 9])
    assert (row["recovery_step"], row["exceeded_step"]) == (20, 50)
    assert row["exceeded"]
    below = one([10, 2, 9, 10, 10, 10])
    assert below["recovered"] and not below["exceeded"]
    assert math.isnan(below["exceeded_step"])


def test_no_recovery():
    row = one([10, 8, 6, 4, 2])
    assert row["collapsed"] and not row["recovered"] and math.isnan(row["recovery_step"])


def test_no_collapse():
    row = one([2, 3, 4, 5])
    assert (row["floor"], row["floor_step"]) == (3, 10)
    assert row["depth"] == pytest.approx(-0.5)
    assert not row["collapsed"] and not row["recovered"] and math.isnan(row["recovery_step"])


def test_single_checkpoint():
    row = one([5])
    assert row["initial"] == row["final"] == 5
    assert math.isnan(row["floor"]) and math.isnan(row["depth"]) and not row["collapsed"]
    assert half_collapse(rows("rankme", [0], [5], layer="final"))["half_step"].isna().all()


def test_layers_are_listed_from_first_to_last():
    frames = [rows("rankme", STEPS, range(10, 0, -1), layer=f"block {i}") for i in (10, 2, 1)]
    frames.append(rows("rankme", STEPS, range(10, 0, -1), layer="final"))
    table = collapse(join(*frames), layer=None)
    assert table["layer"].tolist() == ["block 1", "block 2", "block 10", "final"]


def test_half_collapse():
    frame = rows("rankme", STEPS, [10, 9, 7, 4, 2, 6, 9, 9, 9, 9], layer="block 1")
    row = half_collapse(frame).iloc[0]
    assert (row["half_step"], row["floor_step"], row["collapsed"]) == (30, 40, True)
    # Middle 6, between 7 at step 20 and 4 at step 30.
    assert half_collapse(frame, interpolate=True)["half_step"].item() == pytest.approx(20 + 10 / 3)


def test_half_collapse_in_an_early_window():
    frame = rows("rankme", STEPS, [10, 9, 7, 4, 4, 6, 9, 5, 2, 1], layer="block 1")
    assert half_collapse(frame)["floor_step"].item() == 90
    row = half_collapse(frame, until=50).iloc[0]
    assert (row["floor"], row["floor_step"], row["half_step"]) == (4, 30, 20)


def test_a_fall_below_the_stated_minimum_is_no_collapse():
    frame = rows("rankme", STEPS, [10, 9.9, *[10.5] * 8], layer="block 1")
    row = half_collapse(frame).iloc[0]
    assert not row["collapsed"] and math.isnan(row["half_step"])
    assert half_collapse(frame, min_depth=0.005)["half_step"].item() == 10


def test_mod_floor_over_runs():
    def table(*floors):
        frames = [
            rows("rankme", [0, 1, 2], [5, floor, 9], layer="final", task="MOD", seed=seed)
            for seed, floor in enumerate(floors)
        ]
        return collapse(join(*frames))

    single = mod_floor(table(2.07))
    assert single["value"] == 2.07 and single["n"] == 1 and math.isnan(single["low"])
    # t quantile 12.706 for one degree of freedom, standard error 0.1; of the logarithm of what is
    # above one dimension, which every RankMe has
    pair = mod_floor(table(2.0, 2.2))
    assert pair["value"] == pytest.approx(2.1)
    assert pair["low"] == pytest.approx(1.0 + 1.1 * math.exp(-1.2706 / 1.1), abs=1e-4)
    assert pair["by_scale"] == {"nano": pytest.approx(2.1)}
    assert math.isnan(mod_floor(collapse(rows("rankme", [0, 1], [5, 2], layer="final")))["value"])


def test_summary_of_a_planted_sweep():
    frame = sweep(noise=0.0)
    table = cells(frame, chance=CHANCE)
    numbers = summarise(frame, table)
    assert len(table) == 24
    assert numbers["collapsed"] == {"count": 24, "of": 24}
    assert numbers["emerged"] == {"count": 23, "of": 24}  # MUL-3 never does
    assert numbers["recovered"]["count"] == 24
    assert numbers["floor_before_emergence"] == {"count": 23, "of": 23}
    assert numbers["mod_floor"]["value"] == pytest.approx(2.0, abs=0.05)
    assert numbers["top_down_task_levels"]["count"] == 24
    assert numbers["top_down_tasks"]["of"] == 8
    assert numbers["top_down_tasks_4_blocks"]["of"] == 0


def test_cells_with_a_missing_measure():
    frame = sweep(tasks=["COPY"], levels=[1])
    only_rank = cells(frame[frame["measure"] == "rankme"])
    assert only_rank["floor"].notna().all() and only_rank["final_accuracy"].isna().all()
    only_accuracy = cells(frame[frame["measure"] == "accuracy"])
    assert only_accuracy["floor"].isna().all() and not only_accuracy["collapsed"].any()
    assert summarise(frame, only_accuracy)["collapsed"] == {"count": 0, "of": 0}
