"""Order of the layers: known true, false, tied, noisy."""

import itertools
import math

import pytest

from geomfast.analysis import top_down, top_down_summary
from tests.analysis.synthetic import join, layers, rows

STEPS = list(range(0, 60, 2))


def verdict(*halves, **options):
    named = {f"block {i + 1}": half for i, half in enumerate(halves)}
    return top_down(layers(named, STEPS), **options).iloc[0]


def test_strict():
    row = verdict(20, 16, 12, 8)
    assert row["verdict"] == "top-down" and row["top_down"] and row["strict"] and row["weak"]
    assert row["tau_b"] == pytest.approx(-1) and row["spearman"] == pytest.approx(-1)
    assert row["p_value"] == pytest.approx(1 / 24)
    assert row["half_steps"] == (20, 16, 12, 8)


def test_ties_are_weak_and_counted_honestly():
    row = verdict(16, 12, 12, 12)
    assert row["top_down"] and row["weak"] and not row["strict"]
    # Three of six pairs are in order; tau-b divides by sqrt(6 * 3).
    assert row["tau_b"] == pytest.approx(-3 / math.sqrt(18))
    # The one different layer is first in a quarter of the orders.
    assert row["p_value"] == pytest.approx(1 / 4)


def test_all_tied_is_not_top_down():
    row = verdict(12, 12, 12)
    assert row["verdict"] == "tied" and not row["top_down"] and row["weak"] and not row["strict"]
    assert math.isnan(row["tau_b"]) and row["p_value"] == 1


@pytest.mark.parametrize("halves", [(8, 12, 16), (16, 8, 12), (12, 16, 8)])
def test_not_top_down(halves):
    row = verdict(*halves)
    assert row["verdict"] == "not top-down" and not row["top_down"] and not row["weak"]


def test_bottom_up_has_the_largest_p_value():
    assert verdict(8, 12, 16)["p_value"] == 1 and verdict(8, 12, 16)["tau_b"] == pytest.approx(1)


def test_the_final_state_and_one_block_do_not_count():
    named = {"block 1": 8, "block 2": 12, "final": 4}
    assert not top_down(layers(named, STEPS)).iloc[0]["top_down"]
    row = verdict(8)
    assert row["verdict"] == "too few blocks" and row["blocks"] == 1
    counts = top_down_summary(top_down(layers({"block 1": 8}, STEPS)))
    assert counts["of"] == 0 and counts["verdicts"]["too few blocks"] == 1
    assert math.isnan(counts["p_value"])


def test_a_layer_that_did_not_collapse_is_counted():
    flat = rows("rankme", STEPS, [10.0] * 30, layer="block 2")
    frame = join(layers({"block 1": 12}, STEPS), flat)
    row = top_down(frame).iloc[0]
    assert row["verdict"] == "no collapse" and row["collapsed_blocks"] == 1
    counts = top_down_summary(top_down(frame))
    assert (counts["count"], counts["of"]) == (0, 1)
    assert counts["verdicts"]["no collapse"] == 1


def test_task_is_the_median_over_levels():
    frame = join(
        layers({"block 1": 8, "block 2": 12}, STEPS, level=1),
        layers({"block 1": 16, "block 2": 8}, STEPS, level=2),
        layers({"block 1": 20, "block 2": 10}, STEPS, level=3),
    )
    assert top_down(frame)["top_down"].tolist() == [False, True, True]
    row = top_down(frame, by_task=True).iloc[0]
    assert row["half_steps"] == (16, 10) and row["top_down"] and row["level"] == 0


def test_levels_that_did_not_collapse_do_not_hide_those_that_did():
    flat = [rows("rankme", STEPS, [10.0] * 30, layer=f"block {i}", level=1) for i in (1, 2)]
    frame = join(*flat, layers({"block 1": 16, "block 2": 8}, STEPS, level=2))
    assert top_down(frame, by_task=True).iloc[0]["half_steps"] == (16, 8)
    assert top_down(frame[frame["level"] == 1], by_task=True).iloc[0]["verdict"] == "no collapse"


def agreeing(runs, blocks=3, **cell):
    halves = {f"block {i + 1}": 20 - 4 * i for i in range(blocks)}
    return join(
        *(
            layers(halves, STEPS, task=task, seed=seed, **cell)
            for seed in range(runs)
            for task in ("COPY", "MOD", "ADD")
        )
    )


def test_one_run_cannot_be_surer_than_its_number_of_orders():
    counts = top_down_summary(top_down(agreeing(1)))
    assert (counts["count"], counts["of"], counts["strict"]) == (3, 3, 3)
    assert counts["p_value"] == pytest.approx(1 / 6) and counts["exact"]
    assert counts["mean_score"] == pytest.approx(-1)
    assert 0.3 < counts["low"] < 0.5 and counts["high"] == pytest.approx(1)


def test_independent_runs_add_evidence():
    counts = top_down_summary(top_down(agreeing(3)))
    assert counts["p_value"] == pytest.approx(1 / 216) and counts["exact"]


def test_many_orders_are_drawn_with_a_seed():
    table = top_down(agreeing(1, blocks=5), seed=1)
    assert table["p_value"].tolist() == [1 / 120] * 3
    ten = {f"block {i + 1}": 40 - 4 * i for i in range(10)}
    drawn = [top_down(layers(ten, STEPS), seed=s).iloc[0]["p_value"] for s in (1, 1)]
    assert drawn[0] == drawn[1] == pytest.approx(1 / 2001)
    assert not top_down_summary(top_down(layers(ten, STEPS)))["exact"]


def test_min_blocks():
    frame = join(agreeing(1, blocks=4), agreeing(1, blocks=2, scale="micro"))
    counts = top_down_summary(top_down(frame, by_task=True), min_blocks=4)
    assert (counts["count"], counts["of"], counts["verdicts"]["too few blocks"]) == (3, 3, 3)


def test_p_values_are_exact_over_all_orders():
    # Every order of four layers once: the share of p-values at or below p is p itself.
    orders = list(itertools.permutations([8, 12, 16, 20]))
    named = [{f"block {i + 1}": half for i, half in enumerate(order)} for order in orders]
    frame = join(*(layers(halves, STEPS, seed=seed) for seed, halves in enumerate(named)))
    p_values = top_down(frame)["p_value"].to_numpy()
    for p_value in p_values:
        assert (p_values <= p_value + 1e-9).mean() == pytest.approx(p_value)


def test_interpolation_can_break_a_tie():
    frame = join(
        rows("rankme", [0, 2, 4, 6], [10, 9, 2, 12], layer="block 1"),
        rows("rankme", [0, 2, 4, 6], [10, 7, 2, 12], layer="block 2"),
    )
    assert top_down(frame).iloc[0]["verdict"] == "tied"
    assert top_down(frame, interpolate=True).iloc[0]["verdict"] == "top-down"
