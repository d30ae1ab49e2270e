"""Populations as their report sees them: outcomes, and what the analyses make of them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet

from geomfast.analysis import check
from geomfast.analysis.population import (
    Unlocking,
    best_early,
    distances,
    from_records,
    geometry,
    read_table,
    resolution_of,
    seeds_curve,
    seeds_needed,
    single_seed_curves,
    summary,
    unlocking,
)
from geomfast.records import RecordsError, is_part, load_records, part_files
from geomfast.report.names import distinct, labels, one_line, one_line_columns, slug
from geomfast.report.settings import read_settings
from geomfast.testbed.tasks import LENGTH_TASKS

_TASKS = {task.name for task in LENGTH_TASKS.values()}
#: Scales that one figure shows, and letters of a name there.
MOST_SCALES, LONGEST_LABEL = 40, 24
#: How ``settings.json`` of a population begins to say what it is.
_FORMAT = "geomfast population"


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
        slug: for file names: *count-24*; no other of a report has it.
        of: the whole population, of one that holds only those of its scales that are drawn.
    """

    task: str
    length: int
    table: pd.DataFrame
    success: float
    records: pd.DataFrame | None = None
    trained: int = 0
    slug: str = "scores"
    of: Population | None = None

    @property
    def name(self) -> str:
        """For headings: *COUNT, length 24*."""
        return self._named(self.task)

    @property
    def short_name(self) -> str:
        """The same for figures, where a name of hundreds of letters has no room."""
        return self._named(labels([self.task], LONGEST_LABEL)[self.task])

    def _named(self, task: str) -> str:
        parts = [task, f"length {self.length}" if self.length else ""]
        if self.length and self.length <= self.trained:
            parts.append("as in training")
        return ", ".join(filter(None, parts)) or "scores"

    @cached_property
    def scales(self) -> list[str]:
        """Smallest first."""
        return self.table["scale"].unique().tolist()

    @cached_property
    def labels(self) -> dict[str, str]:
        """What each scale is called in figures and in the terminal."""
        return labels(self.scales, LONGEST_LABEL)

    def to_draw(self) -> Population:
        """With :data:`MOST_SCALES` of its scales where it has more: as many as a figure can show.

        The numbers are those that all scales have.
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
        # In place of what it would compute of its own scales alone.
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
        """Width that scores were rounded to."""
        return resolution_of(self.table)

    @cached_property
    def summary(self) -> pd.DataFrame:
        """Statistics of every scale."""
        return summary(self.table, success=self.success, resolution=self.resolution)

    @cached_property
    def distances(self) -> pd.DataFrame:
        """Neighbouring scales."""
        return distances(self.table)

    @property
    def unlocking(self) -> Unlocking:
        """Peak of the distances."""
        return unlocking(self.distances)

    @cached_property
    def curves(self) -> tuple[pd.DataFrame, np.ndarray, list[str]]:
        """Curves that single seeds would show."""
        return single_seed_curves(self.table)

    @cached_property
    def seeds_curve(self) -> pd.DataFrame:
        """What few seeds would see."""
        return seeds_curve(self.summary)

    @cached_property
    def seeds_needed(self) -> pd.DataFrame:
        """How many seeds each scale needs."""
        return seeds_needed(self.summary)

    @cached_property
    def geometry(self) -> pd.DataFrame:
        """AUC of early geometry; empty for a table."""
        if self.records is None:
            return pd.DataFrame(columns=["scale", "measure", "layer", "step", "auc", "early"])
        return geometry(self.records, self.table, success=self.success)

    @cached_property
    def best_early(self) -> pd.DataFrame:
        """Where early geometry parts the members furthest."""
        return best_early(self.geometry)


@dataclass(frozen=True)
class Populations:
    """What a report is made from.

    Attributes:
        name: of the folder or file.
        each: by task and length.
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
    # Records without their settings: their tasks tell.
    for part in itertools.islice(filter(is_part, part_files(path)), 1):
        tasks = pyarrow.parquet.read_table(part, columns=["task"])["task"]
        return not _TASKS.isdisjoint(tasks.to_pylist())
    return False


def read(path: Path, success: float) -> Populations:
    """Read the populations in a folder or table.

    Args:
        path: folder of ``geomfast population``, or a table of outcomes (CSV or Parquet).
        success: score from which a member has succeeded.

    Raises:
        FileNotFoundError: no such file or folder, or no records in it.
        RecordsError: what is there cannot be read, or is not of populations.
    """
    if path.is_file():
        records, settings, table, trained = None, {}, read_table(path), 0
    else:
        records, settings = load_records(path), read_settings(path / "settings.json")
        check(records)
        records = one_line_columns(records[records["task"].isin(_TASKS)], ["scale", "layer"])
        if records.empty:
            raise RecordsError(f"{path}: no records of {', '.join(sorted(_TASKS))}")
        shared = settings.get("settings")
        shared = shared if isinstance(shared, dict) else {}
        table = from_records(records, _parameters(settings), last_step=shared.get("steps"))
        trained = int(shared.get("train_length", 0))
    table = one_line_columns(table, ["task", "scale"])
    kinds = list(table.groupby(["task", "length"], sort=False))
    files = distinct((_key(*kind) for kind, _ in kinds), _file_name)
    same = (success, records, trained)
    each = [
        Population(str(kind[0]), int(str(kind[1])), rows, *same, files[_key(*kind)])
        for kind, rows in kinds
    ]
    return Populations(one_line(path.resolve().name), each, settings)


def _key(task: Any, length: Any) -> str:
    return f"{length}/{task}"


def _file_name(key: str) -> str:
    """Of a population: *count-24*."""
    length, _, task = key.partition("/")
    parts = [slug(task.lower()) if task else "", length if int(length) else ""]
    return "-".join(filter(None, parts)) or "scores"


def _parameters(settings: dict[str, Any]) -> dict[str, float]:
    """Model sizes by scale, as settings.json has them."""
    recipes = settings.get("recipes")
    known = recipes.items() if isinstance(recipes, dict) else ()
    return {scale: recipe["parameters"] for scale, recipe in known if "parameters" in recipe}
