"""Figure of the local learning coefficients."""

from __future__ import annotations

from typing import Any

import pandas as pd

from geomfast.analysis.llc import llc_values
from geomfast.analysis.trajectories import task_level
from geomfast.records import MIXTURE
from geomfast.report.multiples import medians, multiples, samples_of
from geomfast.report.style import BLACK, BLUE, VERMILLION, head, need, styled


@styled
def llc_figure(run: pd.DataFrame, table: pd.DataFrame) -> Any:
    """The mixture's coefficient and, per task, the median over levels, by step with its error.

    Values that are in doubt are marked. None where it was not measured.
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
        colour = BLACK if name == mixture else BLUE
        at = medians(rows)
        axes.axhline(0, color="#c4c9cf", linewidth=0.6, zorder=0)
        axes.fill_between(at.index, at["low"], at["high"], color=colour, alpha=0.2, linewidth=0)
        axes.plot(at.index, at["middle"], color=colour, linewidth=1.6)
        doubtful = rows[rows["doubt"] != ""]
        axes.plot(
            doubtful["step"], doubtful["value"], linestyle="", marker="x", markersize=3.5,
            markeredgewidth=0.9, color=VERMILLION, zorder=3,
        )  # fmt: skip
        _mark_lost(axes, values[(names == name) & values["value"].isna()])
    _limit(next(iter(panels.values())), values)
    _legend(figure, values)
    text = (
        f"{run['run'].iloc[0]}; n = {samples_of(values)} samples; tasks: median over levels; "
        "bands: standard error"
    )
    head(figure, "Local learning coefficient", text, 0.75)
    return figure


def _limit(axes: Any, values: pd.DataFrame) -> None:
    """Values far below zero, of a model that has hardly been trained, may leave the panels."""
    top = float(values["value"].max())
    low, _ = axes.get_ylim()
    if top > 0 and low < -top:
        axes.set_ylim(bottom=-top)


def _mark_lost(axes: Any, rows: pd.DataFrame) -> None:
    """Checkpoints at which all chains diverged have no value: a mark at the top of the panel."""
    top = axes.get_xaxis_transform()
    axes.plot(
        rows["step"], [0.97] * len(rows), linestyle="", marker="v", markersize=3.5,
        color=VERMILLION, transform=top, clip_on=False,
    )  # fmt: skip


def _legend(figure: Any, values: pd.DataFrame) -> None:
    Line2D = need("matplotlib.lines").Line2D
    doubts = values.loc[values["value"].notna(), "doubt"]
    handles = [
        Line2D([], [], color=BLACK, label="all task-levels together"),
        Line2D([], [], color=BLUE, label="median over a task's levels"),
    ]
    if (doubts != "").any():
        reasons = ", ".join(sorted(set(doubts) - {""}))
        look = {"linestyle": "", "marker": "x", "color": VERMILLION, "markersize": 4}
        handles.append(Line2D([], [], **look, label=f"a level's value, in doubt: {reasons}"))
    if values["value"].isna().any():
        look = {"linestyle": "", "marker": "v", "color": VERMILLION, "markersize": 4}
        handles.append(Line2D([], [], **look, label="all chains diverged"))
    figure.legend(handles=handles, loc="lower center", ncols=len(handles), frameon=False)
