"""Figure of a language model's behaviour on probe sets, by step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from geomfast.analysis.trajectories import select
from geomfast.report.colours import ORANGE, PURPLE, VERMILLION
from geomfast.report.curves import medians, samples_of
from geomfast.report.style import band, handle, head, legend, multiples, styled
from geomfast.testbed.tasks.names import task_level

#: Measure of language models alone, which choose among continuations.
BY_SIZE = "accuracy_by_size"
#: Name, colour and line style by measure.
_LINES: dict[str, tuple[str, str, Any]] = {
    "accuracy": ("accuracy: likeliest of the choices", VERMILLION, "-"),
    BY_SIZE: ("the same by log-probability per byte", ORANGE, (0, (3, 2))),
    "answer_logprob": ("probability per token of the right choice", PURPLE, (0, (1, 1.5))),
}


@styled
def behaviour_figure(run: pd.DataFrame, table: pd.DataFrame) -> Any:
    """Accuracy and probability of the right choice by step, a panel per probe set.

    None where the model was not measured on probe sets.
    """
    if not (run["measure"] == BY_SIZE).any():
        return None
    values = {measure: select(run, measure) for measure in _LINES}
    every = pd.concat(values.values())
    cells = every[["task", "level"]].drop_duplicates().itertuples(index=False)
    named = {task_level(*cell): cell for cell in cells}
    figure, panels = multiples(list(named), float(run["step"].max()), "share")
    for name, axes in panels.items():
        for measure, found in values.items():
            task, level = named[name]
            rows = found[(found["task"] == task) & (found["level"] == level)]
            _draw(axes, measure, rows)
        axes.set_ylim(0, 1.03)
    handles = [handle(x, color=colour, linestyle=line) for x, colour, line in _LINES.values()]
    legend(figure, handles)
    text = f"{run['run'].iloc[0]}; n = {samples_of(every)} probes a set; band: standard error"
    head(figure, "Behaviour on each probe set", text, 0.75)
    return figure


def _draw(axes: Any, measure: str, rows: pd.DataFrame) -> None:
    _, colour, line = _LINES[measure]
    at = medians(rows)
    if measure == "accuracy":
        return band(axes, at, colour, 0.15, linestyle=line)
    middle = np.exp(at["middle"]) if measure == "answer_logprob" else at["middle"]
    axes.plot(at.index, middle, color=colour, linestyle=line, linewidth=1.6)
