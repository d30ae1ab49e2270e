"""Extremes of the Hessian's eigenvalue and trace along a run."""

from geomfast.analysis import hessian, hessian_summary
from tests.analysis.synthetic import join, rows

STEPS = [0, 10, 20, 30]


def test_first_largest_and_last() -> None:
    frame = join(
        rows("hessian_top", STEPS, [1, 9, 9, 4]).assign(stderr=0.25),
        rows("hessian_top", STEPS, [3, 5, 7, 6], task="MOD"),
        rows("hessian_trace", STEPS[:2], [-2, 40], task="MOD"),
        rows("hessian_top_iterations", STEPS, [10, 10, 10, 10]),
    )
    table = hessian(frame)
    assert [(r["task"], r["measure"]) for r in table.to_dict("records")] == [
        ("COPY", "hessian_top"),
        ("MOD", "hessian_top"),
        ("MOD", "hessian_trace"),
    ]
    first = table.iloc[0]
    assert (first["initial"], first["largest"], first["largest_step"]) == (1.0, 9.0, 10)
    assert (first["final"], first["stderr"], first["checkpoints"]) == (4.0, 0.25, 4)
    summary = hessian_summary(table)
    assert summary["hessian_top"] == {
        "initial": 2.0,
        "largest": 8.0,
        "largest_step": 15.0,
        "final": 5.0,
        "n": 2,
    }
    assert summary["hessian_trace"]["final"] == 40.0


def test_none_measured() -> None:
    table = hessian(rows("rankme", STEPS, [1, 2, 3, 4], layer="final"))
    assert table.empty and hessian_summary(table) == {}
