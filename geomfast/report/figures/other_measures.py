"""Figures of measures that have none of their own, such as those of other packages."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from geomfast.analysis.others import value_columns
from geomfast.analysis.trajectories import in_order
from geomfast.measures import MeasureSpec
from geomfast.records import FINAL
from geomfast.report.axes import plain_numbers
from geomfast.report.curves import samples_of
from geomfast.report.figures.by_step import draw_lines
from geomfast.report.panels import Line, spec_lines, spec_texts
from geomfast.report.style import handle, head, legend, multiples, styled
from geomfast.testbed.tasks.names import task_level


@styled
def other_figure(spec: MeasureSpec, run: pd.DataFrame, table: pd.DataFrame) -> Any:
    """Per task-level every value of a measure by step, a line for every layer that it has.

    None where it has no finite value.

    Args:
        spec: of the measure, whose label, unit, scale and colour it has.
        run: records of one run.
        table: not needed; every figure of a run takes it.
    """
    rows = in_order(run[run["measure"].isin(value_columns(spec)) & np.isfinite(run["value"])])
    if rows.empty:
        return None
    label, unit = spec_texts(spec)
    groups = rows.groupby(["task", "level"], sort=False)
    cells = {task_level(str(task), int(str(level))): part for (task, level), part in groups}
    figure, panels = multiples(list(cells), float(run["step"].max()), unit)
    lines = {name: spec_lines(cells[name], spec) for name in cells}
    for name, axes in panels.items():
        draw_lines(axes, lines[name])
        if spec.logarithmic and rows["value"].min() > 0:
            axes.set_yscale("log", subs=[2, 5])
            plain_numbers(axes.yaxis, minor=True)
    legend(figure, _handles(max(lines.values(), key=len), label))
    text = f"{run['run'].iloc[0]}; n = {samples_of(rows)} samples"
    if rows["stderr"].notna().any():
        text += "; bands: standard error"
    head(figure, label, text, 0.75)
    return figure


def _handles(lines: list[Line], label: str) -> list[Any]:
    """A mark for every line; of the blocks of a network for the first and the last."""
    blocks = list(dict.fromkeys(x.layer for x in lines if x.layer not in ("", FINAL)))
    names = {"": label, FINAL: "final state"}
    return [
        handle(names.get(line.name, line.name), color=line.colour, linewidth=line.width)
        for line in lines
        if line.layer not in blocks[1:-1]
    ]
