"""Figure of how well early geometry predicts which seeds succeed."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from geomfast.analysis.population import ALPHA
from geomfast.analysis.population.geometry import GEOMETRY
from geomfast.records import FINAL
from geomfast.report.colours import BLUE, GREY, PURPLE, SOFT, block_colour, layer_looks
from geomfast.report.population.data import Population
from geomfast.report.population.figures.common import heading, p_text, success_text
from geomfast.report.style import area, handle, legend, multiples, styled


@styled
def geometry_figure(population: Population) -> Any:
    """AUC of RankMe by step and layer, a panel per scale with both outcomes."""
    found = population.geometry
    if found.empty or not (found["measure"] == GEOMETRY).any():
        return None
    scales = list(dict.fromkeys(found["scale"]))
    figure, panels = multiples(scales, float(found["step"].max()), "AUC against final success")
    # A heading of three lines.
    figure.subplots_adjust(top=1 - 1.25 / figure.get_size_inches()[1])
    best = {row["scale"]: row for row in population.best_early.to_dict("records")}
    for scale, axes in panels.items():
        rows = found[found["scale"] == scale]
        _layers(axes, rows[rows["measure"] == GEOMETRY])
        loss = rows[rows["measure"] != GEOMETRY]
        axes.plot(loss["step"], loss["auc"], color=PURPLE, linewidth=1.2, linestyle=(0, (2, 1.5)))
        late = rows.loc[~rows["early"], "step"]
        if len(late):
            axes.axvspan(late.min(), axes.get_xlim()[1], color="#f3f4f6", linewidth=0, zorder=0)
        axes.axhline(0.5, color=GREY, linewidth=0.8)
        axes.set_ylim(-0.03, 1.27)
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
        row, first = best[scale], rows.iloc[0]
        counts = f"{int(first['succeed'])} succeed, {int(first['fail'])} fail"
        words = row["reason"] if row["cells"] == 0 else _said(row)
        axes.set_title(f"{population.labels[scale]}: {counts}", loc="left", fontsize=8.5)
        axes.annotate(
            words, (0.02, 0.98), xycoords="axes fraction", fontsize=7, color=SOFT, va="top"
        )
    handles = [
        handle("final state", color=BLUE, linewidth=1.8),
        handle("first block ...", color=block_colour(0, 2)),
        handle("... last block", color=block_colour(1, 2)),
        handle(f"p < {ALPHA:g}", color=BLUE, marker="o", linestyle="", markersize=4),
        handle("loss", color=PURPLE, linestyle=(0, (2, 1.5))),
        area("some have succeeded", color="#f3f4f6"),
    ]
    legend(figure, handles, fontsize=8)
    how = f"{success_text(population)}; p corrected over early steps and layers; band: 95%"
    title = "Does early RankMe predict which seeds succeed?"
    heading(figure, population, title, how, 0.75)
    return figure


def _layers(axes: Any, rows: pd.DataFrame) -> None:
    layers = list(dict.fromkeys(rows["layer"]))
    looks = layer_looks(layers)
    for layer in layers:
        part, final, (colour, _) = rows[rows["layer"] == layer], layer == FINAL, looks[layer]
        axes.plot(part["step"], part["auc"], color=colour, linewidth=1.8 if final else 1.0)
        if final:
            axes.fill_between(
                part["step"], part["low"], part["high"], color=BLUE, alpha=0.12, linewidth=0
            )
        clear = part[part["family_p"] < ALPHA]
        axes.plot(clear["step"], clear["auc"], "o", color=colour, markersize=3.5)


def _said(row: Any) -> str:
    loss = "" if math.isnan(row["loss_auc"]) else f"; loss there {row['loss_auc']:.2f}"
    where = f"{row['layer']}, step {int(row['step']):,}"
    return f"furthest early: {row['auc']:.2f}, {p_text(row['family_p'])}\n({where}{loss})"
