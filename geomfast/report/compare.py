"""Comparison of two sweeps: claims, task-levels and settings."""

from __future__ import annotations

from typing import Any

import pandas as pd

from geomfast.report import claims as claim_texts
from geomfast.report.data import ReportData
from geomfast.report.settings import differences
from geomfast.report.tables import plain

#: Compared numbers of every task-level: columns of :func:`geomfast.analysis.cells`.
COMPARED = ("floor", "floor_step", "emerged_step", "final_accuracy")


def scale_pairs(ours: ReportData, other: ReportData) -> list[tuple[str, str]]:
    """Pairs of scales to compare: those in both sweeps or, without any, the largest of each."""
    both = [scale for scale in ours.scales if scale in other.scales]
    return [(scale, scale) for scale in both] or [(ours.scales[-1], other.scales[-1])]


def side_by_side(ours: ReportData, other: ReportData) -> pd.DataFrame:
    """The task-levels of two sweeps side by side, medians over seeds.

    Returns:
        One row per pair of scales, task and level: ``scale``, ``other_scale``, ``runs`` and
        ``other_runs``, and for every column of :data:`COMPARED` the medians over runs of both, the
        second with ``other_`` before its name; NaN where it is missing or did not happen.
    """
    frames = []
    for scale, other_scale in scale_pairs(ours, other):
        sides = []
        for found, name, prefix in ((ours, scale, ""), (other, other_scale, "other_")):
            rows = found.cells[found.cells["scale"] == name]
            groups = rows.groupby(["task", "level"], sort=False)
            table = groups[list(COMPARED)].median().assign(runs=groups["run"].nunique())
            sides.append(table.add_prefix(prefix))
        # The first sweep's in order, then those of the other alone.
        keys = list(dict.fromkeys([*sides[0].index, *sides[1].index]))
        both = pd.concat([side.reindex(keys) for side in sides], axis=1).reset_index()
        frames.append(both.assign(scale=scale, other_scale=other_scale))
    columns = ["scale", "other_scale", "task", "level", "runs", "other_runs"]
    columns += [prefix + name for name in COMPARED for prefix in ("", "other_")]
    return pd.concat(frames, ignore_index=True)[columns]


def claims_table(ours: ReportData, other: ReportData) -> pd.DataFrame:
    """The claims of both sweeps: ``verdict``, ``value``, ``low`` and ``high`` of either."""
    theirs = {claim.name: claim for claim in other.claims}
    names = ("verdict", "value", "low", "high", "measured", "reason")
    rows = []
    for claim in ours.claims:
        row: dict[str, Any] = {"name": claim.name, "title": claim.title, "unit": claim.unit}
        row |= {name: getattr(claim, name) for name in names}
        row |= {f"other_{name}": getattr(theirs[claim.name], name) for name in names}
        rows.append(row | {"same_verdict": claim.verdict == theirs[claim.name].verdict})
    return pd.DataFrame(rows)


def as_json(ours: ReportData, other: ReportData) -> dict[str, Any]:
    """The comparison as report.json has it."""
    rows = differences(ours.settings, other.settings)
    return plain(
        {
            "name": other.name,
            "settings": [dict(zip(("name", "ours", "other"), row, strict=True)) for row in rows],
            "claims": claim_texts.as_json(other.claims),
            "cells": side_by_side(ours, other),
        }
    )
