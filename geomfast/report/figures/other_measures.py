"""Figures of measures without a figure of their own, such as those of other packages."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from geomfast.analysis.others import value_columns
from geomfast.analysis.trajectories import in_order
from geomfast.measures import MeasureSpec
from geomfast.records import FINAL
from geomfast.report.axes import log_axis
from geomfast.report.curves import samples_of
from geomfast.report.figures.by_step import draw_lines
from geomfast.report.panels import Line, spec_lines, spec_texts
from geomfast.report.style import handle, head, legend, multiples, styled
from geomfast.testbed.tasks.names import task_level


@styled
def other_figure(spec: MeasureSpec, run: pd.DataFrame, table: pd.DataFrame) -> Any:
    """All values of a measure by step, a panel per task-level and a line per layer.

    None where it has no finite value.

    Args:
        spec: of the measure, with label, unit, scale and colour.
        run: records of one run.
        table: not used; the figures of a run share their arguments.
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
            log_axis(axes)
    legend(figure, _handles(max(lines.values(), key=len), label))
    text = f"{run['run'].iloc[0]}; n = {samples_of(rows)} samples"
    if rows["stderr"].notna().any():
        text += "; bands: standard error"
    head(figure, label, text, 0.75)
    return figure


def _handles(lines: list[Line], label: str) -> list[Any]:
    """Legend entries of the lines, of the blocks of a network the first and the last alone."""
    blocks = list(dict.fromkeys(x.layer for x in lines if x.layer not in ("", FINAL)))
    names = {"": label, FINAL: "final state"}
    return [
        handle(names.get(line.name, line.name), color=line.colour, linewidth=line.width)
        for line in lines
        if line.layer not in blocks[1:-1]
    ]
