"""The data of a report on benchmarks: records, what is known of tasks, results of the analyses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from geomfast.analysis.claim import Claim
from geomfast.analysis.collapse import collapse
from geomfast.analysis.crosscorrelation import cross_correlation
from geomfast.analysis.difficulty import early_correlation, early_geometry
from geomfast.analysis.evaluations import (
    checkpoints_needed,
    joined,
    leaving_chance,
    order_between,
    pairs_between,
    pooled,
    pooled_chance,
    rises,
    scaling,
    suddenness,
)
from geomfast.analysis.evaluations.claims import pythia_global, pythia_tasks
from geomfast.analysis.evaluations.joined import beside
from geomfast.analysis.evaluations.order import SWAPPED
from geomfast.analysis.evaluations.rises import TENTH
from geomfast.analysis.evaluations.suddenness import CONTINUOUS
from geomfast.analysis.leads import COLLAPSE, MEASURES, leads, precursors
from geomfast.analysis.others import others, value_columns
from geomfast.analysis.trajectories import in_order
from geomfast.harness.folder import RECORDS, read_behaviour
from geomfast.records import FINAL, RecordsError, load_records, part_files
from geomfast.report.names import one_line, one_line_columns

#: What geometry says of a run that results of the harness may not tell.
_NAMED = ("scale", "seed")


@dataclass(frozen=True)
class Evaluations:
    """Benchmarks over training.

    Attributes:
        name: of the folder.
        records: of single tasks.
        geometry: records of measures of the same runs; empty where there are none.
        told: content of ``behaviour.json``.
    """

    name: str
    records: pd.DataFrame
    geometry: pd.DataFrame
    told: Mapping[str, Any]

    @property
    def tasks(self) -> Mapping[str, Mapping[str, Any]]:
        """What is known of every task."""
        return self.told["tasks"]

    @cached_property
    def chance(self) -> dict[str, float]:
        """Rate of blind guesses by task, of tasks and collections where it is known."""
        own = {task: one["chance"] for task, one in self.tasks.items() if one["chance"] is not None}
        return own | pooled_chance(self.records, self.collections, own)

    @property
    def kinds(self) -> dict[str, str]:
        """Kind by task."""
        return {task: str(one["kind"]) for task, one in self.tasks.items()}

    @property
    def collections(self) -> dict[str, str]:
        """Collection by task; empty for none, and where a task has the name of the collection."""
        names = {task: str(one["collection"]) for task, one in self.tasks.items()}
        return {task: "" if name in names else name for task, name in names.items()}

    @cached_property
    def runs(self) -> list[str]:
        """Names of the runs with an accuracy, smallest scale first."""
        rows = self.records[self.records["measure"] == "accuracy"]
        return list(dict.fromkeys(in_order(rows)["run"]))

    @cached_property
    def labels(self) -> dict[str, str]:
        """Short name of every run: its scale, with its seed where a scale has several runs."""
        first = in_order(self.records).drop_duplicates("run").set_index("run")
        several = first["scale"].duplicated(keep=False)
        rows = zip(first.index, first["scale"], first["seed"], several, strict=True)
        return {
            str(r): f"{scale}, seed {seed}" if twice else scale for r, scale, seed, twice in rows
        }

    @cached_property
    def _pooled(self) -> tuple[pd.DataFrame, dict[str, int]]:
        return pooled(self.records, self.collections)

    @property
    def pooled(self) -> pd.DataFrame:
        """Records of collections."""
        return self._pooled[0]

    @property
    def members(self) -> dict[str, int]:
        """Number of tasks by collection."""
        return self._pooled[1]

    @cached_property
    def rises(self) -> pd.DataFrame:
        """Rises of single tasks."""
        return rises(self.records, chance=self.chance)

    @cached_property
    def tenth(self) -> pd.DataFrame:
        """Rises by a tenth of the way from chance to all answers right."""
        return rises(self.records, chance=self.chance, share=TENTH)

    @cached_property
    def pooled_rises(self) -> pd.DataFrame:
        """Rises of collections."""
        return rises(self.pooled, chance=self.chance)

    @cached_property
    def counts(self) -> pd.DataFrame:
        """Counts of tasks that leave chance, by run."""
        return leaving_chance(self.rises, self.tenth)

    @cached_property
    def order(self) -> pd.DataFrame:
        """Agreement of orders between runs."""
        return order_between(self.rises)

    @cached_property
    def swapped(self) -> pd.DataFrame:
        """Pairs of tasks whose order is another at another run."""
        return pairs_between(self.rises, verdicts=(SWAPPED,))

    @cached_property
    def sudden(self) -> pd.DataFrame:
        """How suddenly tasks rise, by accuracy and by continuous measures."""
        there = set(self.records["measure"])
        names = ["accuracy", *(name for name in CONTINUOUS if name in there)]
        return pd.concat([suddenness(self.records, measure=name) for name in names])

    @cached_property
    def scaling(self) -> pd.DataFrame:
        """Linearity and breakthroughness of every curve."""
        return scaling(self.records)

    @cached_property
    def needed(self) -> pd.DataFrame:
        """Intervals between checkpoints in which tasks rise."""
        return checkpoints_needed(self.rises)

    @cached_property
    def beside(self) -> pd.DataFrame:
        """Whose geometry stands beside each task."""
        return beside(self.records, self.geometry, self.kinds)

    @cached_property
    def both(self) -> pd.DataFrame:
        """Records of tasks and of the geometry beside them."""
        return joined(self.records, self.geometry, self.kinds)

    @cached_property
    def leads(self) -> pd.DataFrame:
        """Change of every measure against the rise of every task."""
        if self.both.empty:
            return pd.DataFrame()
        there = set(self.both["measure"])
        more = [name for spec in others() for name in value_columns(spec) if name in there]
        return leads(self.both, measures=(*MEASURES, COLLAPSE, *more), events=self.rises)

    @cached_property
    def precursors(self) -> pd.DataFrame:
        """Precursor rates over all tasks, by measure."""
        if self.leads.empty:
            return pd.DataFrame()
        table = precursors(self.leads)
        return table[(table["scale"] == "") & (table["level"] == 0)].reset_index(drop=True)

    @cached_property
    def correlations(self) -> pd.DataFrame:
        """Lead of every measure by cross-correlation of changes."""
        if self.both.empty:
            return pd.DataFrame()
        return cross_correlation(self.both, events=self.rises)

    @cached_property
    def early(self) -> pd.DataFrame:
        """Rank correlation of early RankMe with the step of the rise, run by run."""
        if self.both.empty:
            return pd.DataFrame()
        return early_correlation(early_geometry(self.both, events=self.rises))

    @cached_property
    def collapses(self) -> pd.DataFrame:
        """Fall and recovery of RankMe of every set of samples."""
        final = self.geometry[self.geometry["layer"] == FINAL]
        return collapse(final) if len(final) else pd.DataFrame()

    @cached_property
    def claims(self) -> Sequence[Claim]:
        """What the paper says of Pythia."""
        return [pythia_global(self.geometry), pythia_tasks(self.both, self.rises)]

    @cached_property
    def shown(self) -> list[str]:
        """Tasks that rise in any run, the earliest first, and then collections."""
        steps = self.rises.dropna(subset="step").groupby("task")["step"]
        first = pd.DataFrame({"count": -steps.size(), "step": steps.median()})
        return [str(task) for task in first.sort_values(["count", "step"]).index]


def read(out: Path) -> Evaluations:
    """Read the benchmarks of a folder, and the geometry beside them if there is any.

    Raises:
        PlanError: ``behaviour.json`` is damaged.
        RecordsError: the records cannot be read, or are those of no benchmarks.
    """
    told = read_behaviour(out)
    if not told:
        raise RecordsError(f"{out} has no behaviour.json: geomfast behaviour writes it")
    texts = ["run", "scale", "task"]
    records = one_line_columns(load_records(out / RECORDS), texts)
    if unknown := sorted(set(records["task"]) - set(told["tasks"])):
        raise RecordsError(f"{out}: behaviour.json does not know the task {unknown[0]!r:.60}")
    if not records["measure"].eq("accuracy").any():
        raise RecordsError(f"{out} has no accuracy of any task: rises are told from nothing else")
    geometry = records.iloc[:0]
    if part_files(out / "records"):
        geometry = one_line_columns(load_records(out / "records"), texts)
        records = _as_there(records, geometry)
    return Evaluations(one_line(out.resolve().name), records, geometry, told)


def _as_there(records: pd.DataFrame, geometry: pd.DataFrame) -> pd.DataFrame:
    """Records with scale and seed of the geometry of their run, which may be measured later."""
    own = geometry.drop_duplicates("run").set_index("run")
    joins = records["run"].isin(own.index)
    named = {name: records["run"].map(own[name]).where(joins, records[name]) for name in _NAMED}
    return records.assign(**named).astype({name: records[name].dtype for name in _NAMED})
