"""The data of one sweep's report: records, settings and the results of the analyses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from geomfast.analysis import Claim, cells, check, claims
from geomfast.analysis.claims import task_chances
from geomfast.analysis.concordance import pairs
from geomfast.analysis.crosscorrelation import cross_correlation
from geomfast.analysis.depth import depth_order, depth_summary
from geomfast.analysis.difficulty import early_geometry
from geomfast.analysis.leads import leads, precursors
from geomfast.analysis.llc import DOUBTS, llc_values
from geomfast.analysis.probes import FIRST_TOKEN, probe_leads
from geomfast.analysis.rates import BEST, at_rate, floors_by_rate, rate_losses, rates
from geomfast.analysis.remember import remember
from geomfast.analysis.topdown import top_down
from geomfast.analysis.trajectories import TRAJECTORY, in_order
from geomfast.measures.spec import FAILED
from geomfast.records import MIXTURE, RecordsError, load_records
from geomfast.report.curves import DOUBT
from geomfast.report.names import one_line, one_line_columns
from geomfast.report.settings import loss_unit, peak_rates, read_settings
from geomfast.runs.timing import wall_time

#: Format that ``settings.json`` has of what a tracker recorded.
TRACKER = "geomfast tracker 1"


@dataclass(frozen=True)
class ByRate:
    """What a sweep at several learning rates or warm-ups shows of each.

    Attributes:
        shown: whose runs the rest of the report is about.
        losses: rows of :func:`geomfast.analysis.rate_losses`.
        floors: rows of :func:`geomfast.analysis.floors_by_rate`.
        claims: by rate, those at each scale's best first.
    """

    shown: str
    losses: pd.DataFrame
    floors: pd.DataFrame
    claims: Mapping[str, Sequence[Claim]]

    @property
    def left_out(self) -> list[str]:
        """Scales without a best rate, of whose behaviour nothing is recorded."""
        best = self.losses.groupby("scale", sort=False)["best"].any()
        return [] if self.shown != BEST else [str(scale) for scale in best.index[~best]]


@dataclass(frozen=True)
class ReportData:
    """The data of a report.

    Attributes:
        name: of the sweep where two are shown.
        records: the table of :func:`geomfast.records.load_records`.
        settings: content of ``settings.json``; empty where there is none.
        chance: exact-match chance by task-level name, of the settings or else of the tasks.
        cells: rows of :func:`geomfast.analysis.cells`.
        claims: of :func:`geomfast.analysis.claims`, in the order of the paper's story.
        wall: of :func:`geomfast.runs.timing.wall_time`.
        by_rate: what every learning rate shows, where runs of a scale have several.
    """

    name: str
    records: pd.DataFrame
    settings: dict[str, Any]
    chance: Mapping[str, float]
    cells: pd.DataFrame
    claims: Sequence[Claim]
    wall: pd.DataFrame
    by_rate: ByRate | None = None

    def renamed(self, name: str) -> ReportData:
        """The same under another name."""
        return replace(self, name=one_line(name))

    @property
    def runs(self) -> list[str]:
        """Names of the runs, smallest scale and first seed first."""
        return list(dict.fromkeys(self.cells["run"]))

    @property
    def scales(self) -> list[str]:
        """Names of the scales, smallest first."""
        return list(dict.fromkeys(self.cells["scale"]))

    @property
    def tracked(self) -> bool:
        """Whether a tracker recorded it, whose tasks are sets of samples without behaviour."""
        return self.settings.get("format") == TRACKER

    @cached_property
    def orders(self) -> pd.DataFrame:
        """Order of the blocks' half-collapse, per run and task."""
        return top_down(self.records, by_task=True)

    @cached_property
    def depth(self) -> pd.DataFrame:
        """Order of the blocks by their number, over all runs, where a run has three or more."""
        return depth_summary(depth_order(self.records))

    @cached_property
    def leads(self) -> pd.DataFrame:
        """Change of every measure against emergence."""
        return leads(self.records, chance=self.chance)

    @cached_property
    def precursors(self) -> pd.DataFrame:
        """Precursor rates, over all and by scale and level."""
        return precursors(self.leads)

    @cached_property
    def correlations(self) -> pd.DataFrame:
        """Lead of every measure by cross-correlation of changes."""
        return cross_correlation(self.records, chance=self.chance)

    @cached_property
    def early(self) -> pd.DataFrame:
        """Early geometry beside emergence."""
        return early_geometry(self.records, chance=self.chance)

    @cached_property
    def pairs(self) -> pd.DataFrame:
        """Pairs of task-levels in the order of emergence and of early geometry."""
        return pairs(self.early)

    @cached_property
    def doubts(self) -> str:
        """The share of learning coefficients in doubt, as text; empty where none is."""
        doubtful = llc_values(self.records)["doubt"].isin(DOUBTS)
        return f"{DOUBT} {doubtful.sum():,} of {len(doubtful):,} in doubt" * bool(doubtful.any())

    @cached_property
    def probes(self) -> pd.DataFrame:
        """Steps from which a linear probe and the model have the answer.

        The rows of :func:`geomfast.analysis.probe_leads` against the whole answer and, where it
        is recorded, the step from which the model has the first token (``first_token``).
        """
        table = probe_leads(self.records, chance=self.chance)
        if not (self.records["measure"] == FIRST_TOKEN).any():
            return table.assign(first_token=math.nan)
        alike = probe_leads(self.records, chance=self.chance, behaviour=FIRST_TOKEN)
        first = alike[[*TRAJECTORY, "emerged"]].rename(columns={"emerged": "first_token"})
        return table.merge(first, on=TRAJECTORY, how="left")


def _by_layer(records: pd.DataFrame) -> pd.DataFrame:
    """Records in which a failure of all layers is one per layer, a gap in every curve."""
    lost = records[(records["backend"] == FAILED) & (records["layer"] == "")]
    if lost.empty:
        return records
    by = ["run", "measure", "task", "level"]
    layers = records.loc[records["layer"] != "", [*by, "layer"]].drop_duplicates()
    of_each = lost.drop(columns="layer").reset_index().merge(layers, on=by)
    if of_each.empty:
        return records
    others = records.drop(index=of_each["index"].unique())
    found = pd.concat([others, of_each[records.columns]])
    order = ["run", "step", *by[1:]]
    return found.sort_values(order, kind="stable", ignore_index=True)


def read(out: Path, rate: str = BEST) -> ReportData:
    """Read and analyse a sweep, whose name is its folder's.

    Args:
        out: folder of a sweep, with ``records/`` and, if there is one, ``settings.json``.
        rate: of a sweep at several learning rates that whose runs are taken, as
            :func:`geomfast.analysis.at_rate` has it.

    Raises:
        FileNotFoundError: no such folder, or no records in it.
        RecordsError: a file there cannot be read, there is nothing to report on (of a sweep, no
            task-level with RankMe or behaviour; of anything else, no value), or some records are
            duplicate or contradictory; then the message lists them.
        ValueError: there are no runs at this rate.
    """
    records = load_records(out)
    check(records)
    records = _by_layer(records)
    wall = one_line_columns(wall_time(out, records), ["run"])
    records = one_line_columns(records, ["run", "scale", "task", "layer"])
    texts = records.select_dtypes("string")
    records = records.assign(**{str(name): _shared(column) for name, column in texts.items()})
    settings = read_settings(out / "settings.json")
    records.attrs["loss_unit"] = loss_unit(settings)
    chance = settings.get("chance") or task_chances(records)
    how = {"chance": chance, "usual_rates": peak_rates(settings)}
    by_rate = None
    if rate != BEST or len(rates(records)) > 1:
        by_rate, records = _by_rate(records, rate, how)
        wall = wall[wall["run"].isin(records["run"].unique())]
    remember(records)
    table = cells(records, chance=chance)
    if not _of_a_sweep(settings):
        table = _every_cell(table, records)
    if table.empty:
        lacking = "neither RankMe nor behaviour" if _of_a_sweep(settings) else "no value"
        raise RecordsError(f"{out}: the records hold {lacking} of any task")
    # A tracker's sets of samples are not the tasks that claims count.
    sets = set(records["task"]) - {MIXTURE[0]}  # the task of scalars that the loop logged
    of_sets = str(settings.get("format")) == TRACKER and len(sets) > 1
    if by_rate is None or of_sets:
        judged = claims(records.iloc[:0] if of_sets else records, **how)
    else:
        judged = by_rate.claims[rate]
    return ReportData(
        name=one_line(out.resolve().name),
        records=records,
        settings=settings,
        chance=chance,
        cells=table,
        claims=judged,
        wall=wall,
        by_rate=by_rate,
    )


def _by_rate(
    records: pd.DataFrame, rate: str, how: Mapping[str, Any]
) -> tuple[ByRate, pd.DataFrame]:
    """What every learning rate shows, and the records of the one to be shown."""
    each = {one: at_rate(records, one) for one in dict.fromkeys([BEST, *rates(records), rate])}
    if each[rate].empty:
        raise RecordsError(
            "no behaviour is recorded that says which learning rate is best; choose one by --rate: "
            + ", ".join(rates(records))
        )
    judged = {one: claims(frame, **how) for one, frame in each.items()}
    return ByRate(rate, rate_losses(records), floors_by_rate(records), judged), each[rate]


def _shared(column: pd.Series) -> pd.Series:
    """A column of Python's texts, each different one once: Arrow copies those of selected rows."""
    codes, found = pd.factorize(column)
    texts = np.array([*found, math.nan], dtype=object)  # code -1 is that of a missing one
    return pd.Series(texts[codes], index=column.index, dtype=object)


def _of_a_sweep(settings: Mapping[str, Any]) -> bool:
    """Whether a folder is a sweep's; one without settings counts as such."""
    return str(settings.get("format", "geomfast sweep")).startswith("geomfast sweep")


def _every_cell(table: pd.DataFrame, records: pd.DataFrame) -> pd.DataFrame:
    """The table with a row for every cell that has a value of any measure."""
    valued = records.loc[
        records["value"].notna() & (records["level"] > 0), TRAJECTORY
    ].drop_duplicates()
    whole = table.merge(valued, on=TRAJECTORY, how="outer")
    flags = ["collapsed", "recovered", "exceeded", "pending"]
    for flag in flags:
        whole[flag] = whole[flag].eq(True)
    # Columns of an empty table have no numeric type.
    numbers = [name for name in whole.columns if name not in (*TRAJECTORY, *flags)]
    whole[numbers] = whole[numbers].astype(float)
    return in_order(whole)
