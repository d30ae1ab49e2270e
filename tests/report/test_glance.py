"""The overview of a run, the similarity of its layers, and of its final state with its past."""

import numpy as np
import pandas as pd
import pytest

from geomfast.report.figures.glance import glance, layer_similarity
from geomfast.report.figures.maps import past_map
from tests.analysis.synthetic import join, rows
from tests.report.looks import cut_off, overlapping, texts

STEPS = [0, 1, 2, 4, 8, 16, 32]
LAYERS = ["block 1", "block 2", "final"]
CELLS = [("COPY", 1), ("MOD", 2)]
TABLE = pd.DataFrame(
    {
        "task": [task for task, _ in CELLS],
        "level": [level for _, level in CELLS],
        "floor_step": [2.0, 4.0],
        "collapsed": [True, False],
        "emerged_step": [16.0, np.nan],
    }
)


def of_cells(measure, values, **more):
    return [rows(measure, STEPS, values, task=t, level=v, **more) for t, v in CELLS]


def similarity():
    found = []
    for i, layer in enumerate(LAYERS):
        for j, other in enumerate(LAYERS[:i]):
            name = f"cka_{other.replace(' ', '_')}"
            found += of_cells(name, [0.2 + 0.1 * (i + j)] * 7, layer=layer)
        if layer != "final":
            found += of_cells("cka", [0.4 + 0.1 * i] * 7, layer=layer)
    for k, step in enumerate(STEPS[:-1]):
        later = STEPS[k + 1 :]
        for task, level in CELLS:
            values = [1 / (1 + k)] * len(later)
            found.append(
                rows(f"cka_step_{step}", later, values, layer="final", task=task, level=level)
            )
    return found


RUN = join(
    *of_cells("rankme", [9, 5, 3, 2, 4, 9, 12], layer="final"),
    *of_cells("rankme", [90] * 7, layer="block 1"),
    *of_cells("alpha_req", [1.0, np.nan, 1.2, 1.1, 1.0, 0.9, 0.8], layer="final"),
    *of_cells("gradient_noise_scale", [1, 2, 4, 8, 16, 32, 64]),
    *of_cells("gradient_alignment", [0.5, 0.1, -0.1, 0.0, 0.0, 0.0, 0.0]),
    *similarity(),
)


def said(figure):
    return [words for words, _ in texts(figure)]


def test_a_panel_per_measure_of_the_final_state_with_events():
    figure = glance(RUN, TABLE)
    assert cut_off(figure) == [] and overlapping(figure) == []
    titles = [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")]
    assert titles == [
        "RankMe", "alpha-ReQ", "CKA to the final state", "gradient noise scale",
        "gradient alignment",
    ]  # fmt: skip
    axes = {one.get_title(loc="left"): one for one in figure.axes}
    middle = axes["RankMe"].lines[0]
    assert list(middle.get_ydata()) == [9, 5, 3, 2, 4, 9, 12]  # not of block 1
    assert list(axes["CKA to the final state"].lines[0].get_ydata()) == [0.4] * 7  # of block 1
    floors, emerged = axes["RankMe"].lines[1:]
    assert list(floors.get_xdata()) == [2.0]  # that of MOD is no collapse
    assert list(emerged.get_xdata()) == [16.0]
    assert axes["gradient noise scale"].get_yscale() == "log"
    assert axes["gradient alignment"].get_yscale() == "linear"


def test_few_measures_need_no_overview():
    few = RUN[RUN["measure"].isin(["rankme", "alpha_req", "gradient_alignment"])]
    assert glance(few, TABLE) is None


def test_layers_by_layers_at_four_moments():
    figure = layer_similarity(RUN, TABLE)
    assert cut_off(figure) == [] and overlapping(figure) == []
    titles = [axes.get_title(loc="left") for axes in figure.axes[:-1]]
    assert titles == [
        "first\nstep 0", "floor of RankMe\nstep 2", "emergence\nstep 16", "last\nstep 32"
    ]  # fmt: skip
    matrix = figure.axes[0].images[0].get_array()
    expected = [[1.0, 0.3, 0.4], [0.3, 1.0, 0.5], [0.4, 0.5, 1.0]]
    assert np.asarray(matrix) == pytest.approx(np.array(expected))


def test_no_layers_no_map():
    two = RUN[RUN["layer"].isin(["block 2", "final"])]
    assert layer_similarity(two, TABLE) is None
    assert layer_similarity(RUN[RUN["measure"] == "rankme"], TABLE) is None
    assert past_map(RUN[RUN["measure"] == "rankme"], TABLE) is None


def test_the_final_state_against_its_past():
    figure = past_map(RUN, TABLE)
    assert cut_off(figure) == [] and overlapping(figure) == []
    words = said(figure)
    assert {"COPY", "MOD", "step 0", "step 16", "CKA"} <= set(words)
    values = figure.axes[0].collections[0].get_array()
    assert values.shape[0] == 6
    # Row by row, and nothing before there was something to compare with.
    assert np.isfinite(np.asarray(values[0, -1])) and np.ma.getmaskarray(values)[5, :4].all()
