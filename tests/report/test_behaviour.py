"""What the report says of a language model and its probe sets."""

import pandas as pd
import pytest

from geomfast.analysis import cells, claims, summarise, task_level
from geomfast.report import tables
from geomfast.report.figures import behaviour_figure
from tests.analysis.synthetic import join, rows
from tests.report.looks import cut_off, overlapping, texts

STEPS = (0, 1, 8, 64, 512, 1000)
SETS = ("facts", "in_context")


@pytest.fixture(scope="module")
def records() -> pd.DataFrame:
    frames = []
    for index, task in enumerate(SETS):
        right = [0.25, 0.25, 0.3 + 0.1 * index, 0.5, 0.75, 0.75]
        of = {"task": task, "scale": "pythia-160m"}
        frames += [
            rows("accuracy", STEPS, right, **of),
            rows("accuracy_by_size", STEPS, [0.9 * share for share in right], **of),
            rows("answer_logprob", STEPS, [-4.0 + 3 * share for share in right], **of),
        ]
        for layer in ("block 1", "block 2", "final"):
            frames.append(rows("rankme", STEPS, [9, 6, 3, 5, 8, 8], layer=layer, **of))
    return join(*frames)


def test_every_probe_set_has_its_panel_without_a_level(records: pd.DataFrame) -> None:
    figure = behaviour_figure(records, cells(records))
    assert cut_off(figure) == [] and overlapping(figure) == []
    said = " | ".join(text for text, _ in texts(figure))
    assert "facts" in said and "in_context" in said and "in_context-1" not in said
    assert "likeliest of the choices" in said and "n = 200 probes" in said
    panel = figure.axes[1]  # accuracy, by size, probability
    assert [float(line.get_ydata()[2]) for line in panel.lines][:2] == pytest.approx([0.4, 0.36])


def test_a_sweep_has_no_such_figure(records: pd.DataFrame) -> None:
    exact = records[records["measure"] != "accuracy_by_size"]
    assert behaviour_figure(exact, cells(exact)) is None


def test_names_of_task_levels() -> None:
    assert [task_level("facts", 1), task_level("facts", 2)] == ["facts", "facts (level 2)"]
    assert [task_level("MOD", 1), task_level("COUNT", 1)] == ["MOD-1", "COUNT-1"]


def test_claims_that_one_model_cannot_decide_say_so(records: pd.DataFrame) -> None:
    verdicts = {claim.name: claim.verdict for claim in claims(records, chance={"facts": 0.25})}
    undecided = {name for name, verdict in verdicts.items() if verdict == "not enough data"}
    assert {"mod_floor", "scale_invariant_floors", "geometry_leads", "swaps"} <= undecided


def test_coefficients_without_a_mixture(records: pd.DataFrame) -> None:
    base = records[(records["measure"] == "accuracy")]
    extra = [base.assign(measure="llc", value=5.0, stderr=0.1)]
    for name, value in (("rhat", 1.0), ("ess", 300.0), ("diverged", 0.0), ("step_bias", 0.0)):
        extra.append(base.assign(measure=f"llc_{name}", value=value, stderr=float("nan")))
    extra.append(base.assign(measure="llc_acceptance", value=1.0, stderr=float("nan")))
    whole = join(records, *extra)
    lines = tables.summary_lines(summarise(whole, cells(whole)))
    assert {label: value for label, value, _ in lines}["LLC beyond doubt"].endswith("/12")
