"""Figure of a sweep at several learning rates: floors by rate, a line for every scale."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from geomfast.analysis.trajectories import in_order
from geomfast.report.axes import rank_axis
from geomfast.report.colours import scale_look
from geomfast.report.data import ReportData
from geomfast.report.style import handle, head, legend, panels_of, small_panels, styled
from geomfast.testbed.tasks.names import task_level


@styled
def floors_figure(found: ReportData) -> Any:
    """Floors of the final state on the easiest level of every task, by learning rate.

    None of a sweep at one rate.
    """
    if found.by_rate is None:
        return None
    floors, losses = found.by_rate.floors, found.by_rate.losses
    floors = in_order(floors.assign(seed=0, run=""))
    floors = floors[floors["level"] == floors["level"].min()]
    columns = losses[["rate", "learning_rate", "warmup"]]
    named = {rate: (peak, warmup) for rate, peak, warmup in columns.itertuples(index=False)}
    order = sorted(named, key=lambda rate: tuple(np.nan_to_num(named[rate], nan=-1.0)))
    tasks, scales = (list(dict.fromkeys(floors[name])) for name in ("task", "scale"))
    best = dict(losses.loc[losses["best"], ["scale", "rate"]].itertuples(index=False))
    figure, grid = small_panels(len(tasks))
    labels = [_label(*named[rate]) for rate in order]
    for task, axes, leftmost, lowest in panels_of(grid, tasks):
        for place, scale in enumerate(scales):
            colour, marker = scale_look(scale)
            rows = floors[(floors["task"] == task) & (floors["scale"] == scale)]
            x = np.array([order.index(rate) for rate in rows["rate"]], dtype=float)
            x += 0.08 * (place - (len(scales) - 1) / 2)  # so that error bars do not cover others
            look = {"color": colour, "linewidth": 1.4, "elinewidth": 0.9}
            if losses["warmup"].nunique() > 1:  # of which a line would mix two
                look["linestyle"] = ""
            axes.errorbar(x, rows["floor"], yerr=rows["spread"].fillna(0.0), **look)
            chosen = (rows["rate"] == best.get(scale)).to_numpy()
            for which, face in ((chosen, colour), (~chosen, "white")):
                axes.plot(
                    x[which], rows["floor"][which], marker, color=colour, markerfacecolor=face,
                    markersize=5.5, linestyle="",
                )  # fmt: skip
        axes.set_title(task_level(task, int(floors["level"].iloc[0])), loc="left")
        axes.set_xticks(range(len(order)), labels if lowest else [""] * len(order))
        axes.set_xlim(-0.5, len(order) - 0.5)
        if leftmost:
            axes.set_ylabel("floor of RankMe (log)")
        if lowest:
            axes.set_xlabel("peak learning rate")
    rank_axis(grid.flat[0], floors["floor"].to_numpy(dtype=float))
    handles = [
        handle(s, color=scale_look(s)[0], marker=scale_look(s)[1], linewidth=1.4) for s in scales
    ]
    legend(figure, handles)
    runs = f"{int(losses['runs'].sum())} runs"
    text = f"{runs}; final state; mean and standard deviation over seeds; filled: a scale's best"
    head(figure, "Floors by learning rate", text, 0.75)
    return figure


def _label(rate: float, warmup: float) -> str:
    """A tick: the rate, and the warm-up below it where that varies."""
    shown = "own" if math.isnan(rate) else f"{rate:g}"
    return shown if math.isnan(warmup) else f"{shown}\nwarm-up {warmup:.0f}"
