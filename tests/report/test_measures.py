"""What the report says of measures that a sweep may or may not have taken."""

import pytest

from geomfast.analysis import cells, summarise
from geomfast.report import tables
from geomfast.report.figures import measures
from tests.analysis.synthetic import join, sweep
from tests.report.looks import cut_off, overlapping, texts


@pytest.fixture(scope="module")
def frame():
    return sweep(tasks=["PAR", "MOD"], levels=[1, 2])


def lines_of(frame):
    found = tables.summary_lines(summarise(frame, cells(frame)))
    return {label: (value, remark) for label, value, remark in found}


def words(figure):
    assert cut_off(figure) == [] and overlapping(figure) == []
    return " | ".join(text for text, _ in texts(figure))


def test_without_them_there_is_nothing_to_draw(frame):
    for draw in (measures.gradient_ranks, measures.hessian_figure, measures.llc_figure):
        assert draw(frame, cells(frame)) is None


def test_gradient_ranks(frame):
    base = frame[frame["measure"] == "accuracy"].assign(stderr=float("nan"))
    names = ("fisher_rank", "fisher_rank_first_50k", "gradient_covariance_rank")
    extra = [
        base.assign(measure=name, value=(40.0 - i) / (1.0 + base["value"]))
        for i, name in enumerate(names)
    ]
    whole = join(frame, *extra)
    value, remark = lines_of(whole)["Fisher rank, 50K / all"]
    assert value == "0.975" and "4 task-levels; correlation 1.00" in remark
    said = words(measures.gradient_ranks(whole, cells(frame)))
    assert "Fisher, all parameters" in said and "Fisher, first 50,000 only" in said
    assert "n = 200 gradients" in said


def test_the_hessian(frame):
    base = frame[frame["measure"] == "accuracy"]
    extra = [
        base.assign(measure="hessian_top", value=1.0 + 20.0 * base["value"], stderr=0.01),
        base.assign(measure="hessian_trace", value=90.0 * base["value"] - 20.0, stderr=4.0),
    ]
    lines = lines_of(join(frame, *extra))
    assert lines["Top eigenvalue of the Hessian"][1].startswith(
        "median of 4 task-levels at the end; "
    )
    assert "at step" in lines["Trace of the Hessian"][1]
    said = words(measures.hessian_figure(join(frame, *extra), cells(frame)))
    assert "top eigenvalue" in said and "trace" in said and "nats per token" in said
    said = words(measures.hessian_figure(join(frame, extra[0]), cells(frame)))
    assert "| trace |" not in said


def with_llc(frame):
    """Coefficients of every task-level and of the mixture; some in doubt, one lost."""
    steps = frame[frame["measure"] == "accuracy"]
    whole = steps[(steps["task"] == "MOD") & (steps["level"] == 1)].assign(task="", level=0)
    base = join(steps, whole)
    value = (30.0 * base["value"] - 1.0).mask((base["task"] == "PAR") & (base["step"] == 40))
    beside = {
        "diverged": 4.0 * value.isna(),
        "rhat": 1.0 + 0.2 * (base["step"] == 20),
        "ess": 100.0,
        "step_bias": 0.0,
        "acceptance": 0.5,
    }
    beside = [base.assign(measure=f"llc_{name}", value=v) for name, v in beside.items()]
    return join(frame, base.assign(measure="llc", value=value, stderr=0.5), *beside)


def test_learning_coefficients(frame):
    found = with_llc(frame)
    value, remark = lines_of(found)["LLC of the mixture"]
    assert float(value) == pytest.approx(29.0, abs=0.5)
    assert "± 0.500 at the end" in remark and "2 diverged" in remark and "5 too few draws" in remark
    # What is of the mixture is no task-level.
    assert len(cells(found)) == 4
    said = words(measures.llc_figure(found, cells(found)))
    assert "mixture" in said and "all chains diverged" in said and "in doubt" in said


def test_coefficients_that_were_all_lost(frame):
    found = with_llc(frame)
    found.loc[found["measure"] == "llc", "value"] = float("nan")
    assert measures.llc_figure(found, cells(found)) is None
    assert lines_of(found)["LLC of the mixture"][0] == "-"
