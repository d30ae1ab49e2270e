"""Every figure: that nothing is cut off or overlaps, and that it shows what was planted."""

from dataclasses import replace

import numpy as np
import pytest

from geomfast.files import write_json
from geomfast.report import colours, figures
from geomfast.report.data import read
from geomfast.report.figures import shares
from tests.analysis.synthetic import join, sweep, write
from tests.report.looks import cut_off, overlapping, texts
from tests.report.whole import whole_sweep

pytestmark = pytest.mark.usefixtures("few_claims")

TASKS = ["MUL", "MOD"]


@pytest.fixture(scope="module")
def found(tmp_path_factory, few_claims):
    frame = whole_sweep(("nano", "micro"), (0, 1), TASKS, (1, 3), dear=20)
    out = write(tmp_path_factory.mktemp("sweep"), frame)
    for run in set(frame["run"]):
        write_json(out / "records" / run / "wall.json", {"training": 900.0, "writing": 10.0})
    return read(out)


@pytest.fixture(scope="module")
def of_run(found):
    run = "joint-micro-seed0"
    rows, cells = (table[table["run"] == run] for table in (found.records, found.cells))
    return rows, cells


def said(figure):
    return " | ".join(words for words, _ in texts(figure))


#: What a sweep's run has; the others are in files of their own.
_OTHERS = ("behaviour", "measure-", "layer-similarity", "past")
OF_A_SWEEP = [p for p in figures.FIGURES if not p.name.startswith(_OTHERS)]


#: But for that of several learning rates, which is in test_rates.py.
OF_ALL = [picture for picture in figures.OVERVIEW if picture is not figures.BY_RATE]


@pytest.mark.parametrize("picture", OF_ALL, ids=lambda picture: picture.name)
def test_figures_of_all_runs(picture, found):
    figure = picture.draw(found)
    assert cut_off(figure) == [] and overlapping(figure) == []
    assert "4 runs (2 scales, 2 seeds)" in said(figure)


@pytest.mark.parametrize("picture", OF_A_SWEEP, ids=lambda picture: picture.name)
def test_figures_of_a_run(picture, of_run):
    figure = picture.draw(*of_run)
    assert cut_off(figure) == [] and overlapping(figure) == []
    assert "joint-micro-seed0" in said(figure) and "n = 200" in said(figure)


def drawn(name, found):
    (picture,) = (p for p in (*figures.OVERVIEW, *figures.FIGURES) if p.name == name)
    return picture.draw(found)


def test_what_never_emerged_stands_beside_the_axis(found):
    figure = drawn("events", found)
    _, emergence = figure.axes
    labels = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    last = found.records["step"].max()
    beyond = {
        round(line.get_ydata()[0])
        for line in emergence.lines
        if line.get_marker() not in (".", "None") and line.get_xdata()[0] > last
    }
    assert {labels[y] for y in beyond} == {"MUL-3"}


def test_the_forest_puts_every_event_on_its_side(found):
    left, right = drawn("lead-lag", found).axes
    names = [tick.get_text() for tick in left.get_yticklabels()]
    events = found.leads[found.leads["lead"].notna()]
    counted = {
        colours.BLUE: (events["outcome"] == "lead").sum(),
        colours.GREY: (events["outcome"] == "tie").sum(),
        colours.ORANGE: (events["outcome"] == "lag").sum(),
    }
    dots = {colour: 0 for colour in counted}
    for line in left.lines:
        if line.get_color() in dots and line.get_linestyle() == "None":
            dots[line.get_color()] += len(line.get_xdata())
    assert dots == counted and min(counted.values()) > 0
    # Planted: RankMe turns before behaviour, the Hessian after it.
    medians = {
        names[round(line.get_ydata()[0] + 0.2)]: line.get_xdata()[0]
        for line in left.lines
        if line.get_marker() == "D"
    }
    assert medians["RankMe"] > 0.3 and medians["top Hessian eigenvalue"] < -0.3
    assert right.get_xlabel().startswith("lead over accuracy")


def test_precursor_counts_are_those_of_the_table(found):
    figure = drawn("precursors", found)
    rates = found.precursors
    rates = rates[(rates["scale"] == "") & (rates["level"] > 0) & (rates["events"] > 0)]
    words = [text for text, _ in texts(figure)]
    for row in rates.to_dict("records"):
        assert f"{row['leads']:.0f}/{row['events']:.0f}" in words


def test_shares_of_the_wall_time(found):
    figure = drawn("wall-time", found)
    axes, wall = figure.axes[0], found.wall
    by_scale = wall.groupby(wall["run"].str.contains("micro"))["seconds"].sum()
    for y, whole in enumerate(by_scale):
        bars = [bar for bar in axes.patches if round(bar.get_y() + 0.31) == y]
        assert sum(bar.get_width() for bar in bars) == pytest.approx(1.0)
        assert bars[0].get_width() == pytest.approx(2 * 900.0 / whole)
    assert "training not recorded" not in said(figure)
    measured = wall[wall["part"] != "training"]
    assert "training not recorded" in said(drawn("wall-time", replace(found, wall=measured)))


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.02, "20 ms"), (1.5, "1.5 s"), (720, "12 min"), (12240, "3.4 h")]
)
def test_durations(seconds, text):
    assert shares.duration(seconds) == text


def test_the_layer_map_is_of_ratios(found, of_run):
    figure = drawn_of_run("layers", of_run)
    values = figure.axes[TASKS.index("MOD")].collections[0].get_array()
    assert np.abs(values[:, 0]).max() < 0.01  # the first checkpoint is what all is set against
    assert values.min() < -0.5 and values.max() > 1.0


def drawn_of_run(name, of_run):
    (picture,) = (p for p in figures.FIGURES if p.name == name)
    return picture.draw(*of_run)


def without(frame, measure=None, layer=None):
    keep = frame["measure"] != measure if measure else frame["layer"] != layer
    return frame[keep]


def with_gaps(records):
    """Half of the values are of nothing that could be measured."""
    kept = records.sample(frac=0.5, random_state=0).index
    return records.assign(value=records["value"].where(records.index.isin(kept)))


ODD = {
    "one checkpoint": sweep(blocks=1, tasks=["MOD"], levels=[1], steps=[0]),
    "no final state": without(sweep(tasks=["MOD"], levels=[1]), layer="final"),
    "no behaviour": sweep(tasks=["MOD"], levels=[1]).query("measure == 'rankme'"),
    "no geometry, and a late start": without(
        sweep(tasks=["MOD"], levels=[1], steps=[100, 200, 300]), measure="rankme"
    ),
    "gaps, and an unknown task": with_gaps(
        join(
            sweep(tasks=["MOD"], levels=[1, 4]),
            sweep(tasks=["MOD", "DUPLICATE"], levels=[1], seed=1),
        )
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_records(name, tmp_path):
    odd = read(write(tmp_path, ODD[name]))
    first = odd.runs[0]
    of_run = [table[table["run"] == first] for table in (odd.records, odd.cells)]
    for picture in figures.OVERVIEW:
        figure = picture.draw(odd)
        if figure is not None:
            figure.draw_without_rendering()
    names = set()
    for picture in figures.FIGURES:
        figure = picture.draw(*of_run)
        if figure is not None:
            names.add(picture.name)
            figure.draw_without_rendering()
    assert names == {"collapse", "collapse-grid", "timeline", "layers", "top-down"}


def test_probes_of_runs_in_which_the_model_gives_no_answer(found):
    nowhere = replace(found)
    table = found.probes.assign(first_token=np.nan, emerged=np.nan, outcome="probe only")
    vars(nowhere)["probes"] = table  # which is computed once, and kept there
    figure = drawn("probe-first", nowhere)
    assert "the model has it" not in said(figure)
