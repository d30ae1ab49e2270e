"""What reports say of measures that have no figure of their own, such as another package's."""

import subprocess
import sys
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest

from geomfast.analysis import other_measures, other_summary
from geomfast.measures import Column, MeasureSpec, Need, spec_of
from geomfast.report.figures import FIGURES
from geomfast.report.figures.other_measures import other_figure
from geomfast.report.panels import panels
from tests.analysis.synthetic import join, rows, sweep, write
from tests.measures.plugin import install
from tests.report.looks import cut_off, overlapping, texts

STEPS = [0, 10, 100, 1000]


@dataclass(frozen=True)
class Settings:
    power: float = 2.0


WHOLE = MeasureSpec(
    name="participation",
    summary="participation ratio",
    unit="dimensions",
    settings=Settings,
    need=Need.ACTIVATIONS,
    columns=(Column("participation"), Column("participation_rest")),
    compute=lambda x, settings: x,
    label="participation ratio",
    colour="#123456",
    per_layer=True,
)


def ratio(layers=("block 1", "block 2", "block 3", "final"), task="COPY", level=1):
    return join(
        *(
            rows("participation", STEPS, [9 - i, 3, 30, 20], layer=x, task=task, level=level)
            for i, x in enumerate(layers)
        )
    )


RUN = join(ratio(), ratio(task="MOD", level=2), rows("participation_rest", STEPS, [1e6] * 4))


def said(figure):
    return [words for words, _ in texts(figure)]


def test_every_task_level_has_a_panel_and_every_layer_a_line():
    figure = other_figure(WHOLE, RUN, None)
    assert cut_off(figure) == [] and overlapping(figure) == []
    shown = said(figure)
    assert {"COPY-1", "MOD-2", "participation ratio", "final state", "block 1", "block 3"} <= {
        *shown
    }
    assert "block 2" not in shown and "dimensions" in shown
    copy = figure.axes[0]
    assert [line.get_ydata().tolist() for line in copy.lines] == [
        [9.0 - i, 3.0, 30.0, 20.0] for i in range(4)
    ]
    assert copy.lines[-1].get_color() == "#123456" and copy.get_yscale() == "linear"


@pytest.mark.parametrize(("low", "scale"), [(1.0, "log"), (-1.0, "linear"), (0.0, "linear")])
def test_a_logarithmic_measure_has_a_log_axis_where_it_is_positive(low, scale):
    spec = replace(WHOLE, logarithmic=True, per_layer=False)
    run = rows("participation", STEPS, [low, 10, 100, np.inf]).assign(stderr=0.5)
    figure = other_figure(spec, run, None)
    assert figure.axes[0].get_yscale() == scale
    assert figure.axes[0].lines[0].get_ydata().tolist() == [low, 10, 100]
    assert "standard error" in " ".join(said(figure))


@pytest.mark.parametrize("values", [[np.nan] * 4, [np.inf] * 4])
def test_nothing_finite_is_no_figure(values):
    assert other_figure(WHOLE, rows("participation", STEPS, values), None) is None


def test_names_of_others_are_drawn_as_they_are_on_one_short_line():
    strange = "<b>$x_1$\n\x1b[31m" + "y" * 300
    spec = replace(WHOLE, label=strange, unit=strange, colour="red; url(x)", per_layer=False)
    figure = other_figure(spec, ratio(layers=("",)), None)
    assert cut_off(figure) == []
    assert all("\n" not in words and "\x1b" not in words for words in said(figure))
    assert any(words.startswith("<b>$x_1$\\n") for words in said(figure))


def test_our_quantiles_of_the_density_are_lines_of_one_figure():
    names = [column.name for column in spec_of("hessian_density").columns]
    run = join(*(rows(name, STEPS, [i - 1, i, i, i]) for i, name in enumerate(names)))
    figure = other_figure(spec_of("hessian_density"), run, None)
    assert len(figure.axes[0].lines) == 5 and {"q01", "q50", "q99"} <= {*said(figure)}
    assert "measure-hessian_density" in [picture.name for picture in FIGURES]
    (panel,) = panels(run)
    assert panel.title == "Hessian, density"
    assert [line.name for line in panel.lines] == ["q01", "q10", "q50", "q90", "q99"]


def test_first_largest_and_last_value_of_every_layer(monkeypatch):
    monkeypatch.setattr("geomfast.analysis.others.others", lambda: [WHOLE])
    table = other_measures(RUN)
    assert table["measure"].unique().tolist() == ["participation"]
    assert table["layer"].tolist() == 2 * ["block 1", "block 2", "block 3", "final"]
    first = table.iloc[0]
    assert (first["initial"], first["largest"], first["largest_step"]) == (9.0, 30.0, 100)
    assert (first["final"], first["checkpoints"]) == (20.0, 4)
    summary = other_summary(table)["participation"]
    assert (summary["initial"], summary["n"], summary["layer"]) == (6.0, 2, "final")
    assert other_summary(other_measures(rows("rankme", [0], [1.0], layer="final"))) == {}


def test_a_sweep_with_a_measure_of_an_installed_package(tmp_path):
    """In a process of its own: which packages there are is looked for once."""
    small = sweep(tasks=("COPY", "MOD"), levels=(1,), steps=[0, 10, 100, 1000])
    out = write(tmp_path / "out", join(small, ratio(layers=("block 1", "final"))))
    site = install(tmp_path)
    script = (
        f"import sys; sys.path.insert(0, {str(site)!r})\n"
        "from pathlib import Path\n"
        "from geomfast.report import build, figures\n"
        "figures.FIGURES = tuple(p for p in figures.FIGURES if p.name.startswith('measure-'))\n"
        "figures.OVERVIEW = ()\n"
        f"result = build(Path({str(out)!r}))\n"
        "(row, _) = result['measures']\n"
        "assert (row['measure'], row['layer'], row['final']) == ('participation', 'block 1', 20)\n"
        "(line,) = [line for line in result['lines'] if 'participation' in line[0]]\n"
        "assert line[0] == 'participation ratio, final' and line[1] == '20.0', line\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    table = pd.read_csv(out / "tables" / "measures.csv")
    assert table["largest_step"].tolist() == [100, 100]
    svg = (out / "figures" / "measure-participation.svg").read_text()
    assert svg.startswith("<?xml") and "participation" in svg
    assert "participation ratio" in (out / "report.html").read_text()
