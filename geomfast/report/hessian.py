"""Figure of the Hessian: its top eigenvalue and its trace."""

from __future__ import annotations

from typing import Any

import pandas as pd

from geomfast.analysis.hessian import MEASURES
from geomfast.analysis.trajectories import in_order, select
from geomfast.report.multiples import medians, multiples, plain_numbers, samples_of
from geomfast.report.style import BLUE, ORANGE, head, need, styled

_NAMES: dict[str, str] = dict(zip(MEASURES, ("top eigenvalue", "trace"), strict=True))
_COLOURS: dict[str, str] = dict(zip(MEASURES, (BLUE, ORANGE), strict=True))


@styled
def hessian_figure(run: pd.DataFrame, table: pd.DataFrame) -> Any:
    """Per task: top eigenvalue and trace by step with their errors, median over levels.

    None where neither was measured.
    """
    values = {measure: in_order(select(run, measure)) for measure in MEASURES}
    values = {measure: rows for measure, rows in values.items() if not rows.empty}
    if not values:
        return None
    every = pd.concat(values.values())
    tasks = list(dict.fromkeys(every["task"]))
    figure, panels = multiples(tasks, float(run["step"].max()), "nats per token")
    for task, axes in panels.items():
        for measure, found in values.items():
            at = medians(found[found["task"] == task])
            colour = _COLOURS[measure]
            axes.fill_between(at.index, at["low"], at["high"], color=colour, alpha=0.2, linewidth=0)
            axes.plot(at.index, at["middle"], color=colour, linewidth=1.6)
        # A trace, and early in training an eigenvalue too, may be negative.
        axes.set_yscale("symlog", linthresh=1.0)
        axes.axhline(0, color="#c4c9cf", linewidth=0.6, zorder=0)
        plain_numbers(axes)
    Line2D = need("matplotlib.lines").Line2D
    handles = [Line2D([], [], color=_COLOURS[name], label=_NAMES[name]) for name in values]
    figure.legend(handles=handles, loc="lower center", ncols=len(handles), frameon=False)
    text = (
        f"{run['run'].iloc[0]}; Hessian of the mean loss of n = {samples_of(every)} samples; median"
        " over levels; bands: residual of the eigenvalue, standard error of the trace"
    )
    head(figure, "How curved the loss is", text, 0.75)
    return figure
