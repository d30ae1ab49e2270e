"""The data of the page's interactive chart."""

from __future__ import annotations

import json
from collections.abc import Container
from typing import Any

import numpy as np
import pandas as pd

from geomfast.records import FINAL
from geomfast.report.colours import COLOUR, layer_looks
from geomfast.report.curves import curves
from geomfast.report.tables import plain
from geomfast.testbed.tasks.names import task_level


def chart_data(
    records: pd.DataFrame, table: pd.DataFrame, with_layers: Container[str]
) -> dict[str, Any]:
    """The curves of the chart by run and task-level, each on the steps of its run.

    Args:
        records: the table of :func:`geomfast.records.load_records`.
        table: rows of :func:`geomfast.analysis.cells`.
        with_layers: runs whose blocks are drawn; of the others the final state alone, to keep the
            page of a sweep with many seeds and deep models small.
    """
    data: dict[str, Any] = {}
    runs = dict(list(records.groupby("run", sort=False)))
    for run in dict.fromkeys(table["run"]):
        rows = runs[run]
        steps = sorted(set(rows["step"]))
        place = {int(step): index for index, step in enumerate(steps)}
        found: dict[str, Any] = {}
        if run not in with_layers:
            rows = rows[rows["layer"].isin(["", FINAL])]
        for name in ("rankme", "accuracy", "answer_logprob"):
            for (task, level), layers in curves(rows, name).items():
                cell = found.setdefault(task_level(task, level), {"layers": []})
                if name == "rankme":
                    cell["layers"] = _layers(layers, place)
                else:
                    ((at, values),) = layers.values()
                    cell[name] = _aligned(at, values, place)
        data[str(run)] = {"steps": [int(step) for step in steps], "cells": found}
    for row in table.to_dict("records"):
        cell = data[row["run"]]["cells"].get(task_level(row["task"], row["level"]))
        if cell is not None:
            names = ["floor_step", "floor"] if row["collapsed"] else []
            cell["events"] = plain({name: row[name] for name in [*names, "emerged_step"]})
    order = [task_level(t, v) for t, v in zip(table["task"], table["level"], strict=True)]
    return {"runs": data, "order": list(dict.fromkeys(order)), "colour": COLOUR}


def _layers(
    layers: dict[str, tuple[np.ndarray, np.ndarray]], place: dict[int, int]
) -> list[dict[str, Any]]:
    """Name, colour and values of every layer of one task-level."""
    looks = layer_looks(layers)
    return [
        {"name": label, "colour": looks[label][1], "values": _aligned(at, values, place)}
        for label, (at, values) in layers.items()
    ]


def _aligned(at: np.ndarray, values: np.ndarray, place: dict[int, int]) -> list[float | None]:
    line: list[float | None] = [None] * len(place)
    for step, value in zip(at, values, strict=True):
        # Four digits draw the same curve at half the size.
        line[place[int(step)]] = float(f"{value:.4g}")
    return line


def script_json(value: Any) -> str:
    """JSON as a text of JavaScript, which neither ends its script element nor opens a comment."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return json.dumps(text).replace("<", "\\u003c")
