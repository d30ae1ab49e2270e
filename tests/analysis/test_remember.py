"""Analyses that are made once while a report is, and otherwise every time."""

import pandas as pd

from geomfast.analysis import collapse
from geomfast.analysis.remember import once, remember, remembering
from tests.analysis.synthetic import sweep

calls = []


@once
def counted(records, *names, chance=None):
    """Says its name."""
    calls.append((names, chance))
    return pd.DataFrame({"rows": [len(records)]})


def test_the_same_question_is_answered_once_and_another_one_anew():
    calls.clear()
    table = pd.DataFrame({"a": [1, 2]})
    with remembering():
        remember(table)
        first = counted(table, "x", chance={"MOD-1": 0.1, "COPY-1": 0.2})
        first["new"] = 1  # the caller may change its copy
        again = counted(table, "x", chance={"COPY-1": 0.2, "MOD-1": 0.1})
        assert list(again) == ["rows"] and len(calls) == 1
        counted(table, "y"), counted(table, "x"), counted(table, "x", chance={"MOD-1": 0.3})
        assert len(calls) == 4
    counted(table, "x")
    counted(table, "x")
    assert len(calls) == 6
    assert counted.__name__ == "counted" and counted.__doc__ == "Says its name."


def test_tables_that_are_not_to_be_remembered_are_analysed_every_time():
    calls.clear()
    table = pd.DataFrame({"a": [1, 2]})
    with remembering():
        counted(table)
        counted(table)
        other = pd.DataFrame({"a": [1]})
        remember(other)
        assert counted(other)["rows"].item() == 1
        assert counted(table)["rows"].item() == 2
    assert len(calls) == 4


def test_an_analysis_says_the_same_while_it_is_remembered():
    records = sweep()
    alone = collapse(records)
    with remembering():
        remember(records)
        pd.testing.assert_frame_equal(collapse(records), alone)
        pd.testing.assert_frame_equal(collapse(records), alone)
