"""Figures of the expensive measures of a run by step: gradients, Hessian, learning coefficient."""

from __future__ import annotations

from typing import Any

import pandas as pd

from geomfast.analysis.llc import DOUBTS, llc_values
from geomfast.analysis.trajectories import in_order, select
from geomfast.analysis.truncation import FIRST
from geomfast.estimators.sampling.rules import BOUND
from geomfast.records import MIXTURE
from geomfast.report.axes import log_axis, log_ticks
from geomfast.report.colours import BLACK, BLUE, BOUNDED, DOUBTFUL, ORANGE, VERMILLION
from geomfast.report.curves import loss_unit, medians, samples_of
from geomfast.report.style import band, handle, head, legend, multiples, styled
from geomfast.testbed.tasks.names import task_level

#: Name and colour by measure, and line style by the parameters that a rank counts.
_RANKS = {
    "fisher_rank": ("Fisher", BLUE),
    "gradient_covariance_rank": ("gradient covariance", ORANGE),
}
_LINES: dict[str, Any] = {"": "-", FIRST: (0, (3, 2))}
_CURVATURES = {"hessian_top": ("top eigenvalue", BLUE), "hessian_trace": ("trace", ORANGE)}


@styled
def gradient_ranks(run: pd.DataFrame, table: pd.DataFrame) -> Any:
    """Fisher and gradient-covariance rank by step, a panel per task, median over levels.

    None where neither was measured.
    """
    values = {
        (measure, suffix): in_order(select(run, measure + suffix))
        for measure in _RANKS
        for suffix in _LINES
    }
    values = {name: rows for name, rows in values.items() if not rows.empty}
    if not values:
        return None
    tasks = list(dict.fromkeys(task for rows in values.values() for task in rows["task"]))
    figure, panels = multiples(tasks, float(run["step"].max()), "effective rank")
    for task, axes in panels.items():
        for (measure, suffix), found in values.items():
            median = found[found["task"] == task].groupby("step")["value"].median()
            axes.plot(
                median.index, median, color=_RANKS[measure][1], linestyle=_LINES[suffix],
                linewidth=1.6 if suffix == "" else 1.2,
            )  # fmt: skip
        log_axis(axes)
    handles = [
        handle(
            f"{_RANKS[measure][0]}, {'first 50,000 only' if suffix else 'all parameters'}",
            color=_RANKS[measure][1], linestyle=_LINES[suffix],
        )
        for measure, suffix in values
    ]  # fmt: skip
    legend(figure, handles)
    samples = samples_of(pd.concat(values.values()))
    text = f"{run['run'].iloc[0]}; n = {samples} gradients per task-level; median over levels"
    head(figure, "How many dimensions the gradients use", text, 0.75)
    return figure


@styled
def hessian_figure(run: pd.DataFrame, table: pd.DataFrame) -> Any:
    """Top eigenvalue and trace by step with their errors, a panel per task, median over levels.

    None where neither was measured.
    """
    values = {measure: in_order(select(run, measure)) for measure in _CURVATURES}
    values = {measure: rows for measure, rows in values.items() if not rows.empty}
    if not values:
        return None
    every = pd.concat(values.values())
    tasks = list(dict.fromkeys(every["task"]))
    figure, panels = multiples(tasks, float(run["step"].max()), loss_unit(run))
    for task, axes in panels.items():
        for measure, found in values.items():
            band(axes, medians(found[found["task"] == task]), _CURVATURES[measure][1])
        # Traces, and early in training eigenvalues too, may be negative.
        axes.set_yscale("symlog", linthresh=1.0)
        axes.axhline(0, color="#c4c9cf", linewidth=0.6, zorder=0)
        log_ticks(axes.yaxis)
    looks = [_CURVATURES[measure] for measure in values]
    legend(figure, [handle(name, color=colour) for name, colour in looks])
    text = (
        f"{run['run'].iloc[0]}; Hessian of the mean loss of n = {samples_of(every)} samples; median"
        " over levels; bands: residual of the eigenvalue, standard error of the trace"
    )
    head(figure, "How curved the loss is", text, 0.75)
    return figure


@styled
def llc_figure(run: pd.DataFrame, table: pd.DataFrame) -> Any:
    """The mixture's coefficient and, per task, the median over levels, by step with its error.

    Values in doubt and lower bounds are marked. None where it was not measured.
    """
    values = llc_values(run)
    if values["value"].isna().all():
        return None
    mixture, whole = task_level(*MIXTURE), values["task"] == MIXTURE[0]
    names = values["task"].mask(whole, mixture)
    order = [mixture] if whole.any() else []
    order += [name for name in dict.fromkeys(names) if name != mixture]
    figure, panels = multiples(order, float(run["step"].max()), "coefficient")
    for name, axes in panels.items():
        rows = values[(names == name) & values["value"].notna()]
        axes.axhline(0, color="#c4c9cf", linewidth=0.6, zorder=0)
        band(axes, medians(rows), BLACK if name == mixture else BLUE)
        bounded = rows["doubt"] == BOUND
        for which, look in ((rows["doubt"].isin(DOUBTS), DOUBTFUL), (bounded, BOUNDED)):
            axes.plot(rows["step"][which], rows["value"][which], linestyle="", **look)
        _mark_lost(axes, values[(names == name) & values["value"].isna()])
    _limit(next(iter(panels.values())), values)
    _llc_legend(figure, values)
    text = (
        f"{run['run'].iloc[0]}; n = {samples_of(values)} samples; tasks: median over levels; "
        "bands: standard error"
    )
    head(figure, "Local learning coefficient", text, 0.75)
    return figure


def _limit(axes: Any, values: pd.DataFrame) -> None:
    """Cut the axis below, where values of a hardly trained model are far below zero."""
    top = float(values["value"].max())
    low, _ = axes.get_ylim()
    if top > 0 and low < -top:
        axes.set_ylim(bottom=-top)


def _mark_lost(axes: Any, rows: pd.DataFrame) -> None:
    """Mark checkpoints at which all chains diverged, at the top of the panel."""
    top = axes.get_xaxis_transform()
    axes.plot(
        rows["step"], [0.97] * len(rows), linestyle="", marker="v", markersize=3.5,
        color=VERMILLION, transform=top, clip_on=False,
    )  # fmt: skip


def _llc_legend(figure: Any, values: pd.DataFrame) -> None:
    doubts = values.loc[values["value"].notna(), "doubt"]
    handles = [handle("median over a task's levels", color=BLUE)]
    if (values["task"] == MIXTURE[0]).any():
        handles.insert(0, handle("all task-levels together", color=BLACK))
    look = {"linestyle": "", "color": VERMILLION, "markersize": 4}
    if reasons := sorted(set(doubts) & set(DOUBTS)):
        text = f"a level's value in doubt: {', '.join(reasons)}"
        handles.append(handle(text, marker="x", **look))
    if (doubts == BOUND).any():
        handles.append(handle("a lower bound", linestyle="", **BOUNDED))
    if values["value"].isna().any():
        handles.append(handle("all chains diverged", marker="v", **look))
    legend(figure, handles)
