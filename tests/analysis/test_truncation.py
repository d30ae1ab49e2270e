"""Gradient ranks over the first parameters beside those over all."""

import math

import pytest

from geomfast.analysis import truncation, truncation_summary
from tests.analysis.synthetic import join, rows

STEPS = [0, 10, 20, 30]


def both(measure, exact, first, **cell):
    return join(
        rows(measure, STEPS, exact, **cell), rows(f"{measure}_first_50k", STEPS, first, **cell)
    )


def test_ratio_and_correlation():
    frame = join(
        both("fisher_rank", [8, 4, 2, 6], [4, 2, 1, 3]),
        both("fisher_rank", [8, 4, 2, 6], [6, 12, 24, 8], task="MOD"),
        both("gradient_covariance_rank", [5, 5, 5, 5], [5, 4, 3, 2]),
    )
    table = truncation(frame).set_index(["measure", "task"])
    copy, mod = table.loc[("fisher_rank", "COPY")], table.loc[("fisher_rank", "MOD")]
    assert (copy["ratio"], copy["correlation"], copy["checkpoints"]) == (0.5, 1.0, 4)
    assert (copy["exact"], copy["first"]) == (6.0, 3.0)
    assert mod["correlation"] == pytest.approx(-1.0)
    constant = table.loc[("gradient_covariance_rank", "COPY")]
    assert constant["ratio"] == pytest.approx(0.7) and math.isnan(constant["correlation"])
    summary = truncation_summary(table.reset_index())
    assert summary["fisher_rank"]["n"] == 2 and summary["fisher_rank"]["correlation"] == 0.0
    assert summary["fisher_rank"]["low"] < 0.6 < 2.0 < summary["fisher_rank"]["high"]


def test_only_checkpoints_with_both_count():
    frame = join(
        rows("fisher_rank", STEPS, [1, 2, 3, 4]), rows("fisher_rank_first_50k", STEPS[:2], [1, 1])
    )
    (row,) = truncation(frame).to_dict("records")
    assert row["checkpoints"] == 2 and row["exact"] == 2.0 and math.isnan(row["correlation"])


def test_none_measured():
    table = truncation(rows("rankme", STEPS, [1, 2, 3, 4], layer="final"))
    assert table.empty and truncation_summary(table) == {}
