"""Order of many blocks: halves, Kendall's tau, and the first block apart."""

import math

import pytest

from geomfast.analysis import claims, depth_order, depth_summary
from geomfast.analysis.depth import EARLY, FLOOR_STEP, HALF_STEP, LATE, TOGETHER
from geomfast.records import block
from tests.analysis.synthetic import join, rows

STEPS = list(range(0, 41))


def falls(at, *, floor_at=None, steps=STEPS, **cell):
    """Blocks whose log RankMe falls on a line from 8 at step 0, and is half way at these steps."""
    frames = []
    for index, half in enumerate(at):
        low = 2 * half if floor_at is None else floor_at[index]
        values = []
        for step in steps:
            if floor_at is None:
                share = min(step / low, 1.0)
            else:  # half way at `half`, at the floor at `low`
                share = (
                    0.5 * step / half if step <= half else 0.5 + 0.5 * (step - half) / (low - half)
                )
                share = min(share, 1.0)
            values.append(8.0 * 4.0**-share if step < low + 5 else 12.0)
        frames.append(rows("rankme", steps, values, layer=block(index + 1), **cell))
    return join(*frames)


def only(frame, by=HALF_STEP):
    table = depth_order(frame)
    (row,) = table[table["by"] == by].to_dict("records")
    return row


def test_strictly_from_the_last_block():
    row = only(falls([14, 12, 10, 8]))
    assert row["tau"] == -1.0 and row["earlier"] == LATE and row["blocks"] == 4
    assert (row["first_half"], row["last_half"]) == pytest.approx((13.0, 9.0))
    assert not row["first_block_before_second"]
    up = only(falls([8, 10, 12, 14]))
    assert up["tau"] == 1.0 and up["earlier"] == EARLY and up["first_block_before_second"]


def test_half_steps_lie_between_checkpoints_on_a_line_of_the_logarithm():
    row = only(falls([9.25, 9.25, 6.75, 6.75]))
    assert (row["first_half"], row["last_half"]) == pytest.approx((9.25, 6.75))


def test_closer_than_checkpoints_are_is_tied():
    row = only(falls([10.0, 9.4, 10.2, 9.6]))
    assert row["tau"] == 0.0 and row["earlier"] == TOGETHER
    # Half a step apart in the mean is told, though no pair of steps is.
    assert only(falls([10.6, 10.6, 10.0, 10.0]))["earlier"] == LATE
    coarse = list(range(0, 41, 4))
    assert only(falls([12.0, 12.0, 9.0, 9.0], steps=coarse))["tau"] == 0.0


def test_the_first_block_apart():
    row = only(falls([4, 14, 12, 10, 8]))
    assert row["tau"] == pytest.approx(-0.2) and row["tau_but_first"] == -1.0
    assert row["earlier"] == TOGETHER and row["earlier_but_first"] == LATE
    assert row["first_block_before_second"]


def test_by_floor_the_order_can_be_another():
    frame = falls([14, 12, 10, 8], floor_at=[20, 22, 24, 26])
    assert only(frame)["earlier"] == LATE
    assert only(frame, FLOOR_STEP)["earlier"] == EARLY and only(frame, FLOOR_STEP)["tau"] == 1.0


def test_what_has_no_order_is_left_out():
    flat = rows("rankme", STEPS, [8.0] * len(STEPS), layer=block(4))
    assert depth_order(join(falls([14, 12, 10]), flat)).empty
    assert depth_order(falls([14, 12])).empty  # of two blocks there is nothing to tell
    assert depth_order(falls([14, 12, 10]).iloc[:0]).empty
    assert depth_summary(depth_order(falls([14, 12]))).empty


def test_summary_by_number_of_blocks_with_intervals_over_seeds():
    frame = join(
        *(
            falls([14, 12, 10, 8], scale="micro", seed=seed, task=t)
            for seed in (0, 1)
            for t in "AB"
        ),
        *(falls([6, 14, 12, 10, 8, 6], scale="small", seed=seed) for seed in (0, 1)),
        falls([8, 10, 12, 14], scale="micro", seed=2),
    )
    table = depth_summary(depth_order(frame)).set_index(["by", "blocks"])
    four = table.loc[(HALF_STEP, 4)]
    assert (four["runs"], four["n"], four["scales"]) == (3, 5, "micro")
    assert four["tau"] == pytest.approx((4 * -1 + 1) / 5)
    assert four["low"] < four["last_half_first"] < four["high"]
    six = table.loc[(HALF_STEP, 6)]
    assert six["first_block_before_second"] == 1.0 and six["tau_but_first"] == -1.0
    assert not math.isnan(six["last_half_first"])


def test_the_claim_says_what_is_left():
    frame = join(*(falls([10, 14, 9, 8], scale="micro", seed=seed) for seed in (0, 1)))
    (claim,) = [one for one in claims(frame) if one.name == "top_down"]
    assert "last half of the blocks first on 100% (4 blocks)" in claim.reason
