"""Numbers as text."""

import math

import numpy as np
import pytest

from geomfast.report import tables
from geomfast.report.axes import tick_label


@pytest.mark.parametrize(
    ("value", "text"),
    [(2.0712, "2.07"), (26.96, "27.0"), (123.4, "123"), (-0.0002, "-2.00e-4"), (-0.51, "-0.510"),
     (0.0, "0.000"), (0.00123, "0.001"), (1.234e6, "1.23e6"), (math.inf, "inf"), (math.nan, "-")],
)  # fmt: skip
def test_number(value, text):
    assert tables.number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1, "1"), (500, "500"), (1000, "10³"), (2e5, "2×10⁵"), (0.02, "0.02"),
     (2e-4, "2×10⁻⁴"), (-1e-3, "-10⁻³"), (1250, "1.25×10³")],
)  # fmt: skip
def test_ticks_have_exponents_where_numbers_are_far_from_one(value, text):
    assert tick_label(value) == text


def test_cell_says_why_a_step_is_missing():
    row = {"emerged_step": None, "final_accuracy": 0.4, "pending": False}
    assert tables.cell(row, "emerged_step") == "no"
    assert tables.cell(row | {"pending": True}, "emerged_step") == "pending"
    assert tables.cell(row | {"final_accuracy": math.nan}, "emerged_step") == "-"
    assert tables.cell(row | {"emerged_step": 12345.0}, "emerged_step") == "12,345"


def test_plain_is_json():
    value = {"a": np.float64("nan"), 1: (np.int64(2), np.bool_(True)), "c": [None, "x", math.inf]}
    assert tables.plain(value) == {"a": None, "1": [2, True], "c": [None, "x", None]}
