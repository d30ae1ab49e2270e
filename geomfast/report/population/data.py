"""The data of a population's report: outcomes and the results of the analyses."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet

from geomfast.analysis import check
from geomfast.analysis.population import (
    SUCCESS,
    Unlocking,
    best_early,
    distances,
    from_records,
    geometry,
    modes,
    read_table,
    resolution_of,
    seeds_curve,
    seeds_needed,
    single_seed_curves,
    summary,
    unlocking,
)
from geomfast.analysis.population.modes import MODES_COLUMNS
from geomfast.records import RecordsError, is_part, load_records, part_files
from geomfast.report.names import distinct, labels, one_line, one_line_columns, slug
from geomfast.report.settings import read_settings
from geomfast.testbed.tasks import GRAMMAR_TASKS, LENGTH_TASKS

#: Tasks that only populations are trained on.
_TASKS = {task.name for task in LENGTH_TASKS.values()}
_TASKS |= {name for task in GRAMMAR_TASKS.values() for name in task.outcomes}
#: Outcomes that are one word of few: success is to be right more often than not.
_WORDS = {name for task in GRAMMAR_TASKS.values() for name in task.outcomes[1:3]}
_MOSTLY = 0.5
#: A point of an axis beside the scale.
_POINT = re.compile(r"\d+x\d+-.+")
#: One thing that it is made of: the scale, or what varies with its value.
_PART = re.compile(r"\d+x\d+|positions-[a-z]+|[a-z]+[\d.]+(?:e-\d+)?")
#: Most scales of a figure, and most letters of their names there.
MOST_SCALES, LONGEST_LABEL = 40, 24
#: Most letters of a population's name in a figure's heading.
LONGEST_NAME = 48
#: Most scales, of all populations of a report together, whose groups are compared.
MOST_COMPARED = 100
#: Beginning of the format in ``settings.json`` of a population.
_FORMAT = "geomfast population"
#: Likewise of a folder of measured checkpoints.
_MEASURED = "geomfast measurement"


@dataclass(frozen=True)
class Population:
    """The outcomes of one task at one length, over scales and seeds.

    Attributes:
        task: empty where a table names none.
        length: 0 where a table names none.
        table: rows of :func:`geomfast.analysis.population.outcomes`.
        success: score from which a member has succeeded.
        records: those it came from, None for a table.
        trained: longest length trained on; 0 where that is not known.
        slug: for file names: *count-24*; unique in a report.
        of: the whole population, where this one has those of its scales that are drawn.
        compared: whether one group of seeds is compared with two, which takes a second for a few
            scales.
    """

    task: str
    length: int
    table: pd.DataFrame
    success: float
    records: pd.DataFrame | None = None
    trained: int = 0
    slug: str = "scores"
    of: Population | None = None
    compared: bool = True

    @property
    def name(self) -> str:
        """For headings: *COUNT, length 24*."""
        return self._named(self.task)

    @property
    def short_name(self) -> str:
        """A name short enough for figures."""
        return self._named(labels([self.task], LONGEST_NAME)[self.task])

    def _named(self, task: str) -> str:
        parts = [task, f"length {self.length}" if self.length else ""]
        if self.length and self.length <= self.trained:
            parts.append("as in training")
        return ", ".join(filter(None, parts)) or "scores"

    @cached_property
    def scales(self) -> list[str]:
        """Names of the scales, smallest first."""
        return self.table["scale"].unique().tolist()

    @cached_property
    def ordered(self) -> bool:
        """Whether the scales are points of one axis: neither of several nor of kinds."""
        if not all(map(_POINT.fullmatch, self.scales)):
            return True
        parts = [_PART.findall(name) for name in self.scales]
        differing = [
            values for values in itertools.zip_longest(*parts, fillvalue="") if len({*values}) > 1
        ]
        kinds = any(value.startswith("positions") for values in differing for value in values)
        return len(differing) <= 1 and not kinds

    @property
    def _in_order(self) -> pd.DataFrame:
        """The table, of the first scale alone where neighbours mean nothing."""
        of = self.table["scale"]
        return self.table if self.ordered else self.table[of == self.scales[0]]

    @cached_property
    def labels(self) -> dict[str, str]:
        """Names of the scales in figures and in the terminal."""
        return scale_labels(self.scales)

    def to_draw(self) -> Population:
        """The population with at most :data:`MOST_SCALES` of its scales, for figures.

        Its numbers are those computed with all scales.
        """
        scales = self.scales
        if len(scales) <= MOST_SCALES:
            return self
        at = np.unique(np.linspace(0, len(scales) - 1, MOST_SCALES).round().astype(int))
        chosen = {scales[index] for index in at}
        part = replace(self, table=self.table[self.table["scale"].isin(chosen)], of=self)
        found, points, of = self.curves
        kept = [index for index, scale in enumerate(of) if scale in chosen]
        apart = self.distances.nlargest(MOST_SCALES, "w2").index.sort_values()
        # Instead of numbers computed with the chosen scales alone.
        part.__dict__.update(
            resolution=self.resolution,
            labels=self.labels,
            distances=self.distances.loc[apart],
            curves=(found, points[:, kept], [of[index] for index in kept]),
        )
        for name in ("summary", "seeds_curve", "geometry", "best_early"):
            table = getattr(self, name)
            part.__dict__[name] = table[table["scale"].isin(chosen)]
        return part

    @cached_property
    def resolution(self) -> float:
        """Step between scores that rounding left apart."""
        return resolution_of(self.table)

    @cached_property
    def summary(self) -> pd.DataFrame:
        """Statistics of every scale."""
        return summary(self.table, success=self.success, resolution=self.resolution)

    @cached_property
    def distances(self) -> pd.DataFrame:
        """Wasserstein-2 distances of neighbouring scales; empty where these have no order."""
        return distances(self._in_order)

    @cached_property
    def modes(self) -> pd.DataFrame:
        """Whether two groups of seeds foretell others better than one; empty where not compared."""
        return modes(self.table) if self.compared else pd.DataFrame(columns=MODES_COLUMNS)

    @property
    def unlocking(self) -> Unlocking:
        """Peak of the distances between neighbouring scales."""
        return unlocking(self.distances)

    @cached_property
    def curves(self) -> tuple[pd.DataFrame, np.ndarray, list[str]]:
        """Scaling curves of single seeds; none where scales have no order."""
        return single_seed_curves(self._in_order)

    @cached_property
    def seeds_curve(self) -> pd.DataFrame:
        """Chance of a success and width of the interval by number of seeds."""
        return seeds_curve(self.summary)

    @cached_property
    def seeds_needed(self) -> pd.DataFrame:
        """Number of seeds that each scale needs."""
        return seeds_needed(self.summary)

    @cached_property
    def geometry(self) -> pd.DataFrame:
        """AUC of RankMe against final success; empty for a table of outcomes."""
        if self.records is None:
            return pd.DataFrame(columns=["scale", "measure", "layer", "step", "auc", "early"])
        return geometry(self.records, self.table, success=self.success)

    @cached_property
    def best_early(self) -> pd.DataFrame:
        """Step and layer at which early RankMe best separates successful members."""
        return best_early(self.geometry)


@dataclass(frozen=True)
class Populations:
    """The populations of a report.

    Attributes:
        name: of the folder or file.
        each: the populations, by task and length.
        settings: content of ``settings.json``; empty where there is none.
    """

    name: str
    each: list[Population]
    settings: dict[str, Any]


def is_population(path: Path) -> bool:
    """Whether a path is a table of outcomes, or a folder with the records of a population."""
    if path.is_file():
        return path.suffix.lower() in (".csv", ".parquet") and not is_part(path)
    if not path.is_dir():
        return False
    if str(read_settings(path / "settings.json").get("format", "")).startswith(_FORMAT):
        return True
    # Without settings, the tasks of the records decide.
    for part in itertools.islice(filter(is_part, part_files(path)), 1):
        tasks = pyarrow.parquet.read_table(part, columns=["task"])["task"]
        return not _TASKS.isdisjoint(tasks.to_pylist())
    return False


def read(path: Path, success: float | None = None) -> Populations:
    """Read the populations in a folder or table.

    Args:
        path: folder of ``geomfast population``, or a table of outcomes (CSV or Parquet).
        success: score from which a member has succeeded; without, what ``settings.json`` says of
            the task, or the one that suits it.

    Raises:
        FileNotFoundError: no such file or folder, or no records in it.
        RecordsError: the records cannot be read, or are not of populations.
    """
    if path.is_file():
        records, settings, table, trained = None, {}, read_table(path), 0
    else:
        records, settings = load_records(path), read_settings(path / "settings.json")
        check(records)
        kind = str(settings.get("format", ""))
        if kind.startswith(_MEASURED):
            records = records.assign(level=0)  # language models' task-levels know no level
        elif not kind.startswith(_FORMAT):
            records = records[records["task"].isin(_TASKS)]
            if records.empty:
                raise RecordsError(f"{path}: no records of {', '.join(sorted(_TASKS))}")
        records = one_line_columns(records, ["scale", "layer"])
        shared = settings.get("settings")
        shared = shared if isinstance(shared, dict) else {}
        table = from_records(
            records,
            _parameters(settings),
            last_step=shared.get("steps"),
            order=_as_asked(records, settings),
        )
        trained = _trained(settings, shared, table["scale"].unique())
    table = one_line_columns(table, ["task", "scale"])
    kinds = list(table.groupby(["task", "length"], sort=False))
    files = distinct((_key(*kind) for kind, _ in kinds), _file_name)
    each = [
        Population(
            task := str(kind[0]),
            int(str(kind[1])),
            rows,
            _success_of(task, settings) if success is None else success,
            records,
            trained,
            files[_key(*kind)],
            compared=len(kinds) * table["scale"].nunique() <= MOST_COMPARED,
        )
        for kind, rows in kinds
    ]
    return Populations(one_line(path.resolve().name), each, settings)


def scale_labels(scales: Sequence[str]) -> dict[str, str]:
    """Names of the scales in figures and in the terminal: short, and without what they share.

    Points of an axis such as ``2x64-mixture0`` and ``2x64-mixture0.1`` are named by what varies.
    """
    shared = {name.partition("-")[0] for name in scales}
    alike = len(shared) == 1 and all(map(_POINT.fullmatch, scales))
    if not alike:
        return labels(scales, LONGEST_LABEL)
    texts = {name: name.partition("-")[2] for name in scales}
    short = labels(texts.values(), LONGEST_LABEL)
    return {name: short[text] for name, text in texts.items()}


def _trained(settings: dict[str, Any], shared: dict[str, Any], scales: Sequence[str]) -> int:
    """Longest length that all points are trained on; 0 where that is not known."""
    recipes, usual = settings.get("recipes"), shared.get("train_length", 0)
    recipes = recipes if isinstance(recipes, dict) else {}
    return min((int(recipes.get(of, {}).get("train_length", usual)) for of in scales), default=0)


def _as_asked(records: pd.DataFrame, settings: dict[str, Any]) -> list[str]:
    """Scales of measured models in the order in which these were asked for."""
    grid = settings.get("grid")
    runs = grid.get("checkpoints", {}) if isinstance(grid, dict) else {}
    scale_of = dict(zip(records["run"], records["scale"], strict=True))
    asked = runs if isinstance(runs, dict) else {}
    return list(dict.fromkeys(scale_of[run] for run in asked if run in scale_of))


def _success_of(task: str, settings: dict[str, Any]) -> float:
    """The score that is success in a task: of multiple choice halfway from chance to 1."""
    if (told := _told(settings, "success", task)) is not None:
        return told
    if (chance := _told(settings, "chance", task)) is not None:
        return (1.0 + chance) / 2.0
    return _MOSTLY if task in _WORDS else SUCCESS


def _told(settings: dict[str, Any], name: str, task: str) -> float | None:
    """A number of a task in settings.json."""
    told = settings.get(name)
    value = told.get(task) if isinstance(told, dict) else None
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if math.isfinite(value) else None


def _key(task: Any, length: Any) -> str:
    return f"{length}/{task}"


def _file_name(key: str) -> str:
    """The file name of a population: *count-24*."""
    length, _, task = key.partition("/")
    parts = [slug(task.lower()) if task else "", length if int(length) else ""]
    return "-".join(filter(None, parts)) or "scores"


def _parameters(settings: dict[str, Any]) -> dict[str, float]:
    """Model sizes by scale, from settings.json."""
    recipes, sizes = settings.get("recipes"), settings.get("sizes")
    known = recipes.items() if isinstance(recipes, dict) else ()
    found = dict(sizes) if isinstance(sizes, dict) else {}
    return found | {of: recipe["parameters"] for of, recipe in known if "parameters" in recipe}
