"""The report of what a tracker recorded: every measure has its curve, whatever was measured."""

import re
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from geomfast.cli.report import report
from geomfast.records import RecordsError
from geomfast.report import build
from geomfast.report.data import TRACKER, read
from geomfast.report.figures import TRACKED, TRACKED_COMPARED
from geomfast.report.panels import overlay, panels
from tests.analysis.synthetic import join, rows, write
from tests.report.conftest import judge_few
from tests.report.looks import cut_off, overlapping, texts
from tests.report.test_assemble import parsed

STEPS = [0, 1, 2, 4, 8, 16, 100]
VALUES = {
    "loss": [4.0, 3.9, 3.5, 3.0, 2.5, 2.2, 2.0],
    "train_loss": [3.9, 3.8, 3.3, 2.9, 2.6, 1.9, 1.7],
    "fisher_rank": [30.0, 31.0, 33.0, 36.0, 40.0, 44.0, 42.0],
    "fisher_rank_first_50k": [28.0, 29.0, 33.0, 35.0, 41.0, 45.0, 40.0],
    "hessian_top": [1.0, 2.0, 9.0, 40.0, 80.0, 60.0, 30.0],
    "hessian_trace": [-3.0, 20.0, 90.0, 400.0, 800.0, 600.0, 300.0],
    "llc": [1.0, 1.2, 2.0, 4.0, 9.0, 11.0, 12.0],
}


def records(*measures, layers=("block 1", "block 2", "final"), name="held", scale="CharNet"):
    """Of one run, whose RankMe falls from 12 to 9 and rises to 14."""
    of: dict[str, Any] = {"task": name, "scale": scale}
    found = []
    for measure in measures:
        if measure == "rankme":
            values = np.array([12.0, 11.9, 11.0, 9.0, 10.0, 13.0, 14.0])
            found += [
                rows(measure, STEPS, [*(values - i)], layer=x, **of) for i, x in enumerate(layers)
            ]
        elif measure == "train_loss":
            found.append(rows(measure, STEPS, VALUES[measure], task="", level=0, scale=scale))
        else:
            found.append(rows(measure, STEPS, VALUES[measure], **of))
    return join(*found).assign(run="run")


def tracked(folder, frame, tracking=None, **settings):
    told = {"every": "log", "max_overhead": 0.05, "overhead": 0.04, "thinned_from": None}
    told |= {"due": len(STEPS), "measured": len(STEPS), **(tracking or {})}
    return write(folder, frame, format=TRACKER, tracking={"run": told}, settings=settings)


ALL = records("rankme", *VALUES)


def test_panels_have_every_measure_once():
    found = panels(ALL)
    assert [panel.title for panel in found] == [
        "RankMe of every layer", "Loss", "Effective rank of the gradients",
        "Largest eigenvalue of the Hessian", "Trace of the Hessian", "Local learning coefficient",
    ]  # fmt: skip
    assert [line.name for line in found[0].lines] == ["block 1", "block 2", "final"]
    assert [line.name for line in found[1].lines] == ["evaluation (samples)", "training batch"]
    assert found[0].lines[-1].values.tolist() == [10.0, 9.9, 9.0, 7.0, 8.0, 11.0, 12.0]
    assert [panel.logarithmic for panel in found] == [False, False, False, True, False, True]


def test_ranks_of_all_parameters_are_drawn_once():
    same = ALL.copy()
    first = same["measure"] == "fisher_rank_first_50k"
    same.loc[first, "value"] = VALUES["fisher_rank"]
    assert [line.name for line in panels(same)[2].lines] == ["Fisher"]
    assert len(panels(ALL)[2].lines) == 2


@pytest.mark.parametrize("steps", [STEPS, [0], [0, 1]], ids=len)
@pytest.mark.parametrize("picture", TRACKED, ids=lambda picture: picture.name)
def test_figures(picture, steps, few_claims):
    figure = picture.draw(ALL[ALL["step"].isin(steps)], None)
    assert cut_off(figure) == [] and overlapping(figure) == []
    assert "n = 200" in " ".join(words for words, _ in texts(figure))


def test_ten_layers_are_named_by_the_first_and_the_last():
    frame = records("rankme", layers=[*(f"block {i + 1}" for i in range(8)), "final"])
    by_step = TRACKED[0].draw(frame, None)
    (axes,) = by_step.axes
    assert len(axes.lines) == 9
    named = [text.get_text() for text in axes.get_legend().get_texts()]
    assert named == ["block 1", "block 8", "final state"]


@pytest.fixture
def quick(monkeypatch):
    judge_few(monkeypatch)
    monkeypatch.setattr("geomfast.report.figures.TRACKED", ())


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    "measures", [["rankme"], ["loss", "fisher_rank"], ["hessian_trace"], ["llc"]], ids="+".join
)
def test_any_measure_makes_a_report(measures, tmp_path):
    out = tracked(tmp_path, records(*measures, layers=("block 1", "block 2")))
    result = build(out)
    found, text = parsed(out / "report.html")
    assert all(ref.startswith(("data:", "#")) for ref in found)
    assert len(result["lines"]) == len(measures) and "7 of 7 due steps measured" in text
    assert result["cells"][0]["task"] == "held"


@pytest.mark.usefixtures("quick")
def test_a_series_of_checkpoints_without_rankme_or_behaviour(tmp_path):
    frame = records("fisher_rank")
    out = write(tmp_path, frame, format="geomfast measurement 1")
    build(out)
    html = (out / "report.html").read_text()
    assert 'id="collapse"' not in html and "gradient-ranks" in " ".join(
        path.name for path in (out / "figures").iterdir()
    )


def test_a_folder_without_any_value(tmp_path):
    out = tracked(tmp_path, records("loss").assign(value=float("nan")))
    with pytest.raises(RecordsError, match="hold no value"):
        read(out)


def test_curves_first_and_only_claims_that_are_decided(tmp_path, few_claims):
    out = tracked(tmp_path, ALL, {"due": 15, "thinned_from": 3}, layers=["net.1", "net.3", "out"])
    result = build(out)
    html = (out / "report.html").read_text()
    places = [html.index(f'id="{name}"') for name in ("measured", "curves", "numbers", "claims")]
    assert places == sorted(places)
    decided = {c["name"] for c in result["claims"] if c["verdict"] != "not enough data"}
    assert decided and set(re.findall(r'id="claim-(\w+)"', html)) == decided
    _, text = parsed(out / "report.html")
    assert "claims need more than these records have" in text or "claim needs more" in text
    thinned = "7 of 15 due steps measured, as the budget (max_overhead = 0.05) left others out"
    assert text.count(thinned) == 1 + len(TRACKED)  # the head, and every caption
    assert "block 1: net.1; block 2: net.3; final: out" in text
    assert "RankMe, final 10.0 at 0 7.00 at 4 12.0 at 100 12.0 at 100" in text
    lines = {label: (value, remark) for label, value, remark in result["lines"]}
    assert lines["RankMe, final"] == ("12.0", "at step 100; 10.0 at 0, smallest 7.00 at 4")
    names = {path.name for path in (out / "figures").glob("*.svg")}
    assert names == {"by-step.svg", "layers.svg", "llc.svg"}


@pytest.mark.usefixtures("quick")
def test_the_terminal_has_the_numbers_first(tmp_path):
    out = tracked(tmp_path, records("rankme", "loss"))
    result = CliRunner(env={"COLUMNS": "80"}).invoke(report, [str(out)])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("RankMe, final") and "not enough data\n" in result.stdout
    assert "? not enough data" not in result.stdout and "emerged" not in result.stdout
    assert result.stdout.splitlines()[-1] == str(out / "report.html")


@pytest.mark.usefixtures("quick")
def test_a_table_without_rankme_has_numbers_all_the_same(tmp_path):
    found = read(tracked(tmp_path, records("loss")))
    assert found.cells[["floor", "emerged_step", "final_accuracy"]].dtypes.eq(float).all()
    assert not found.cells["collapsed"].any() and found.cells["collapsed"].dtype == bool


@pytest.mark.usefixtures("quick")
def test_several_runs_are_chosen_from(tmp_path):
    frame = join(records("rankme"), records("rankme").assign(run="other", seed=1))
    out = tracked(tmp_path, frame)
    result = build(out)
    html = (out / "report.html").read_text()
    assert html.count("<option value=") == 4 and "other: CharNet, seed 1" in html
    assert [label for label, _, _ in result["lines"]] == ["RankMe, final, run"]


def test_wall_time_of_a_model_with_a_long_name(tmp_path, few_claims):
    from geomfast.report.figures import shares

    frame = records("rankme", "loss", scale="AVeryLongNameOfAModelForLanguage").assign(seconds=1.0)
    figure = shares.wall_shares(read(tracked(tmp_path, frame)))
    assert cut_off(figure) == []
    words = " ".join(words for words, _ in texts(figure))
    assert "loss of the samples" in words and "behaviour" not in words


def with_diagnostics(rhat):
    """A learning coefficient whose chains agree where R-hat is small."""
    beside = {"diverged": [0.0], "rhat": rhat, "ess": [100.0], "step_bias": [0.0]}
    found = [
        rows(f"llc_{name}", STEPS, np.resize(values, len(STEPS)), task="held", scale="CharNet")
        for name, values in beside.items()
    ]
    return join(records("llc"), join(*found).assign(run="run"))


@pytest.mark.usefixtures("few_claims")
def test_coefficients_in_doubt_are_marked_in_every_view(tmp_path):
    frame = with_diagnostics([1.0, 1.5, 1.0, 1.0, 1.0, 1.0, 1.5])
    (panel,) = panels(frame)
    assert [bool(doubt) for doubt in panel.lines[0].doubts] == [False, True, *[False] * 4, True]
    marks = TRACKED[0].draw(frame, None).axes[0].lines[-1]
    assert marks.get_xdata().tolist() == [1, 100] and marks.get_marker() == "x"
    result = build(tracked(tmp_path, frame))
    ((_, value, remark),) = result["lines"]
    assert value == "12.0" and remark.endswith("? in doubt: 2 of 7 values, this one too")
    _, text = parsed(tmp_path / "report.html")
    assert "1.00 at 0 1.00 at 0 12.0 ? at 100 12.0 ? at 100" in text
    assert "?: a coefficient in doubt" in text
    assert "too few draws" in (tmp_path / "report.html").read_text()  # of the chart


@pytest.mark.usefixtures("few_claims")
def test_lower_bounds_are_marked_as_such_in_every_view(tmp_path):
    effect = rows("llc_localization_effect", STEPS, [0.5] * 7, task="held", scale="CharNet")
    effect = effect.assign(run="run", stderr=[0.01] * 5 + [0.4] * 2)  # of the last it is not known
    frame = join(with_diagnostics([1.0] * 6 + [1.5]), effect)
    (panel,) = [one for one in panels(frame) if one.lines[0].name == "LLC"]
    assert list(panel.lines[0].bounds) == [True] * 5 + [False] * 2
    assert [bool(doubt) for doubt in panel.lines[0].doubts] == [False] * 6 + [True]
    crosses, triangles = TRACKED[0].draw(frame, None).axes[0].lines[-2:]
    assert (crosses.get_marker(), triangles.get_marker()) == ("x", "^")
    assert triangles.get_xdata().tolist() == STEPS[:5]
    remarks = [remark for _, _, remark in build(tracked(tmp_path, frame))["lines"]]
    assert any("in doubt: 1 of 7" in one and "lower bounds: 5 of 7" in one for one in remarks)
    text = parsed(tmp_path / "report.html")[1]
    assert "≥ 1.00" in text and "≥: a lower bound" in text and "12.0 ? at 100" in text


@pytest.mark.usefixtures("few_claims")
def test_coefficients_beyond_doubt_have_no_mark(tmp_path):
    result = build(tracked(tmp_path, with_diagnostics([1.0])))
    assert result["lines"][0][1] == "12.0" and "in doubt" not in result["lines"][0][2]
    assert "?: a coefficient" not in parsed(tmp_path / "report.html")[1]


@pytest.fixture
def two(tmp_path):
    other = ALL.assign(value=2.0 * ALL["value"])
    tracked(tmp_path / "one", ALL, loss="next_token")
    return tmp_path / "one", tracked(tmp_path / "two", other, loss="square")


def test_two_trackers_are_laid_over_each_other(two, few_claims):
    found, other = map(read, two)
    both = overlay([panels(each.records) for each in (found, other)], ["one", "two"])
    assert [panel.title for panel in both] == [panel.title for panel in panels(ALL)]
    assert [line.dashed for line in both[0].lines] == [False] * 3 + [True] * 3
    assert both[1].unit == "solid: nats per token\ndashed: units of square"
    figure = TRACKED_COMPARED[0].draw(found, other, ("CharNet", "CharNet"))
    assert cut_off(figure) == [] and overlapping(figure) == []
    words = " ".join(words for words, _ in texts(figure))
    assert "solid: one" in words and "dashed: two" in words


def test_the_page_of_two_trackers(two, few_claims):
    out, other = two
    result = build(out, compare_with=other)
    html = (out / "report.html").read_text()
    assert (out / "figures" / "compare-by-step-CharNet.svg").exists()
    assert '<option value="one and two">' in html and "<td>settings.loss</td>" in html
    _, text = parsed(out / "report.html")
    assert "RankMe, two, final 20.0 at 0" in text and "RankMe, one, final 10.0 at 0" in text
    assert result["compare"]["name"] == "two"
