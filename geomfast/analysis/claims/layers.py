"""The claim about the order in which layers collapse."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd

from geomfast.analysis.claim import DOES_NOT, HOLDS, PARTLY, Claim
from geomfast.analysis.claims.wording import percent, several, span
from geomfast.analysis.depth import HALF_STEP, depth_order, depth_summary
from geomfast.analysis.intervals import share_over_seeds
from geomfast.analysis.topdown import NO_COLLAPSE, top_down_summary
from geomfast.analysis.topdown import TOP_DOWN as DOWN
from geomfast.analysis.topdown import top_down as layer_orders

#: The paper counts models with at least this many blocks.
BLOCKS = 4
#: Shares of the tasks; the paper has 28 of 32 in v3.
MOST, HALF = 0.8, 0.5
#: Error rate of the permutation test.
ALPHA = 0.05

TOP_DOWN = Claim(
    name="top_down",
    title="Collapse goes top-down",
    statement="Deeper blocks reach half of their collapse before shallower ones.",
    criterion=(
        f"A task (median over its levels) of a run with {BLOCKS} blocks or more is top-down if no "
        "block is later than a shallower one and the last strictly before the first; all tied is "
        f"not. Holds if {percent(MOST)} are and a permutation of the blocks, the same for all "
        f"tasks of a run, is as top-down with p < {ALPHA:g}; partly if either is so, or half are."
    ),
    unit="share",
)


def top_down(records: pd.DataFrame, *, chance: Mapping[str, float] | None = None) -> Claim:
    """Number of tasks that collapse from the last block to the first.

    The table is that of :func:`geomfast.analysis.top_down` by task, of the runs
    that have enough blocks.
    """
    orders = layer_orders(records, by_task=True)
    if orders.empty:
        return TOP_DOWN.undecided("no RankMe of blocks in the records")
    table = orders[orders["blocks"] >= BLOCKS].reset_index(drop=True)
    if table.empty:
        deepest = orders.groupby("scale", sort=False)["blocks"].max()
        there = ", ".join(f"{scale} ({blocks})" for scale, blocks in deepest.items())
        reason = f"no model with {BLOCKS} blocks or more; there is {there}"
        return TOP_DOWN.undecided(reason)
    counts = top_down_summary(table, min_blocks=BLOCKS)
    if counts["verdicts"][NO_COLLAPSE] == len(table):
        reason = f"on none of {several(len(table), 'task')} of runs did every block collapse"
        return TOP_DOWN.undecided(reason)
    share = share_over_seeds(table["top_down"], table["run"], table["scale"])
    unlikely = counts["p_value"] < ALPHA and counts["mean_score"] < 0
    verdict = DOES_NOT
    if share.value >= MOST and unlikely:
        verdict = HOLDS
    elif share.value >= HALF or unlikely:
        verdict = PARTLY
    others = "".join(
        f", {count} {name}" for name, count in counts["verdicts"].items() if count and name != DOWN
    )
    n = {"runs": table["run"].nunique(), "scales": table["scale"].nunique(), "tasks": len(table)}
    p_value = "undefined" if math.isnan(counts["p_value"]) else f"{counts['p_value']:.2g}"
    reason = (
        f"{counts['count']} of {counts['of']} task x model top-down{others}; permutation p "
        f"{p_value}, Kendall's score {counts['mean_score']:.2f} of -1{_weaker(records)}"
    )
    measured = f"{counts['count']}/{counts['of']} task x model, {span(share, percent)}"
    return TOP_DOWN.judged(verdict, reason, share, measured, n=n, table=table)


def _weaker(records: pd.DataFrame) -> str:
    """What is left where the strict order is not: whether the last half of the blocks is first."""
    table = depth_order(records)
    table = table[(table["by"] == HALF_STEP) & (table["blocks"] >= BLOCKS)]
    shares = [
        f"{percent(row['last_half_first'])} ({row['blocks']} blocks)"
        for row in depth_summary(table).to_dict("records")
    ]
    return f"; last half of the blocks first on {', '.join(shares)}" if shares else ""
