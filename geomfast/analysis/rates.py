"""Runs at several learning rates or warm-ups: kept apart, and the best of each scale.

A floor falls with the learning rate, so that scales trained at different rates differ by more than
their size.  Which rate a run had is in its name (``geomfast sweep --learning-rates``).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from geomfast.analysis.collapse import collapse
from geomfast.analysis.floors import floors
from geomfast.analysis.trajectories import in_order, select
from geomfast.records import FINAL
from geomfast.testbed.hyperparameters import Hyperparameters, of_run, shown_rate

#: Name of runs whose sweep varies neither, and of the choice of each scale's best.
OWN, BEST = "own", "best"
#: What the best rate of a scale has least of, in nats per answer token.
LOSS = "answer_logprob"
RATE_COLUMNS = ["scale", "rate", "learning_rate", "warmup", "runs", "finished", "step"]
RATE_COLUMNS += ["loss", "spread", "best"]


class SeveralRates(ValueError):
    """Records in which a scale has runs at several learning rates, which no claim may mix."""


def rate_of(run: str) -> str:
    """The learning rate and warm-up of a run as its name has them, :data:`OWN` where it has none.

    Args:
        run: its name, for instance ``joint-nano-lr0.001-seed0``: ``lr0.001``.
    """
    return of_run(run).label or OWN


def rates(records: pd.DataFrame) -> list[str]:
    """Learning rates and warm-ups of the runs in the records, ascending, :data:`OWN` first."""
    found = {of_run(str(run)) for run in records["run"].unique()}
    return [one.label or OWN for one in sorted(found, key=lambda one: one.order)]


def at_rate(records: pd.DataFrame, rate: str) -> pd.DataFrame:
    """Records of the runs at one learning rate and warm-up.

    Args:
        records: the table of :func:`geomfast.records.load_records`.
        rate: one of :func:`rates`; :data:`BEST` for that of each scale with the lowest loss.

    Raises:
        ValueError: there is no such rate.
    """
    if rate == BEST:
        return best_rates(records)
    if rate not in (there := rates(records)):
        raise ValueError(f"no runs at {rate!r}; there are: {', '.join([BEST, *there])}")
    return _runs(records, lambda run: rate_of(run) == rate)


def best_rates(records: pd.DataFrame) -> pd.DataFrame:
    """Records of every scale's runs at its best rate, that of :func:`rate_losses`.

    A scale without one (no behaviour was recorded) is left out, unless all its runs are at one.
    """
    table = rate_losses(records)
    best = {(row.scale, row.rate) for row in table[table["best"]].itertuples()}
    scale_of = dict(zip(records["run"], records["scale"], strict=True))
    return _runs(records, lambda run: (scale_of[run], rate_of(run)) in best)


def _runs(records: pd.DataFrame, wanted: Callable[[str], bool]) -> pd.DataFrame:
    names = [run for run in records["run"].unique() if wanted(str(run))]
    found = records[records["run"].isin(names)].reset_index(drop=True)
    found.attrs = dict(records.attrs)
    return found


def rate_losses(records: pd.DataFrame) -> pd.DataFrame:
    """Loss of every scale at every rate, and which rate is its best.

    Args:
        records: the table of :func:`geomfast.records.load_records`.

    Returns:
        A row per scale and rate: ``rate``, ``learning_rate`` and ``warmup`` (NaN where runs have
        the usual one), ``runs``, how many of them ``finished`` (have behaviour at the last step
        that any run of the scale has), that ``step``, ``loss`` (nats per answer token, mean over
        task-levels and finished runs) with its ``spread`` over runs, and ``best``: the lowest loss
        of the rates whose runs have all finished, or of all where no rate's have; where a scale
        has one rate only, that one.
    """
    behaved = select(records[records["level"] > 0], LOSS)
    each = behaved.groupby(["run", "step"])["value"].mean()
    rows: list[dict[str, Any]] = []
    for scale, of_scale in records[["scale", "run"]].drop_duplicates().groupby("scale", sort=False):
        own = each[each.index.get_level_values("run").isin(of_scale["run"])]
        last = own.index.get_level_values("step").max() if len(own) else np.nan
        ends = -own.xs(last, level="step") if len(own) else own.droplevel("step")
        by_rate: dict[Hyperparameters, list[str]] = {}
        for run in of_scale["run"]:
            by_rate.setdefault(of_run(str(run)), []).append(run)
        mine = []
        for varied, runs in sorted(by_rate.items(), key=lambda item: item[0].order):
            there = ends.reindex(runs).dropna()
            mine.append(
                {
                    "scale": scale,
                    "rate": varied.label or OWN,
                    "learning_rate": varied.learning_rate,
                    "warmup": varied.warmup,
                    "runs": len(runs),
                    "finished": len(there),
                    "step": last,
                    "loss": float(there.mean()) if len(there) else np.nan,
                    "spread": float(there.std()) if len(there) > 1 else np.nan,
                }
            )
        whole = [row for row in mine if row["finished"] == row["runs"]] or mine
        known = [row for row in whole if not np.isnan(row["loss"])]
        best = min(known, key=lambda row: row["loss"]) if known else None
        best = mine[0] if len(mine) == 1 else best
        rows += [row | {"best": row is best} for row in mine]
    table = pd.DataFrame(rows, columns=RATE_COLUMNS)
    numbers = ["learning_rate", "warmup", "step", "loss", "spread"]
    table[numbers] = table[numbers].astype(float)
    order = table.assign(seed=0, run=range(len(table)), task="", level=0)
    return in_order(order)[RATE_COLUMNS]


def floors_by_rate(records: pd.DataFrame) -> pd.DataFrame:
    """Floors of the final state by rate, scale and task-level.

    Returns:
        The columns of :func:`geomfast.analysis.floors.floors` after ``rate``.
    """
    each = {rate: collapse(at_rate(records, rate), layer=FINAL) for rate in rates(records)}
    tables = [floors(table).assign(rate=rate) for rate, table in each.items()]
    whole = pd.concat(tables, ignore_index=True)
    return whole[["rate", *(name for name in whole.columns if name != "rate")]]


def check_one_rate(records: pd.DataFrame) -> None:
    """Refuse records in which a scale has runs at several rates.

    Raises:
        SeveralRates: it names them, and how to choose one.
    """
    pairs = records[["scale", "run"]].drop_duplicates()
    for scale, runs in pairs.groupby("scale", sort=False)["run"]:
        if len(there := sorted({rate_of(str(run)) for run in runs})) > 1:
            raise SeveralRates(
                f"{scale} has runs at several learning rates ({', '.join(there)}), which a claim "
                "must not mix: choose with geomfast.analysis.at_rate(records, rate), rate one of "
                f"these or {BEST!r}"
            )


def of_one_rate(judge: Callable[..., Any]) -> Callable[..., Any]:
    """An analysis over runs that refuses records in which a scale has several rates."""

    @functools.wraps(judge)
    def checked(records: pd.DataFrame, *arguments: Any, **options: Any) -> Any:
        check_one_rate(records)
        return judge(records, *arguments, **options)

    return checked


def differing_rates(records: pd.DataFrame, usual: Mapping[str, float] | None = None) -> str:
    """The rates of the scales as text, where they are not the same; else empty.

    Args:
        records: in which every scale has one rate.
        usual: peak learning rate by scale of runs whose names do not say theirs.
    """
    known: dict[str, tuple[float | None, int | None]] = {}
    for scale, run in records[["scale", "run"]].drop_duplicates().itertuples(index=False):
        named = of_run(str(run))
        rate = named.learning_rate or (usual or {}).get(scale)
        known.setdefault(scale, (rate, named.warmup))
    if len(set(known.values())) < 2:
        return ""
    texts = []
    for scale, (rate, warmup) in known.items():
        shown = "unknown" if rate is None else shown_rate(rate)
        texts.append(f"{scale} {shown}" + (f" (warm-up {warmup})" if warmup is not None else ""))
    return ", ".join(texts)
