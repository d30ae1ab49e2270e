"""Summary of the seeds of one scale: their distribution, and how often they succeed.

Zhao et al. (arXiv:2502.17356) read emergence from these numbers: where seeds form two groups, the
mean describes neither, the mode jumps from one to the other, and the probability of success and the
mean of those that succeed are what changes smoothly with scale.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from geomfast.analysis.intervals import wilson
from geomfast.analysis.population.dip import dip_test, many_sizes, spread_ties
from geomfast.analysis.population.table import resolution_of

#: Exact match from which a member has succeeded (Zhao et al.: 20%).
SUCCESS = 0.2
#: Fewest finished members of a scale for statistics over them.
LEAST_SEEDS = 10
#: Bootstrap samples behind an interval.
BOOTSTRAP = 1_000
#: Of a large table fewer are drawn, down to :data:`FEWEST`, so that samples times members stay
#: below this.
DRAWN, FEWEST = 100_000_000, 100
#: Members drawn at a time: some tens of megabytes.
CHUNK = 4_000_000
#: Bins of the histogram that the mode is taken from.
BINS = 20
#: Error rate of the dip tests of one population together.
ALPHA = 0.05

_INTERVALS = ("mode", "mean", "success", "given_success")
SUMMARY_COLUMNS = ["scale", "parameters", "seeds", "unfinished", "successes"]
SUMMARY_COLUMNS += [f"{name}{end}" for name in _INTERVALS for end in ("", "_low", "_high")]
SUMMARY_COLUMNS += ["dip", "dip_p", "spread_dip", "spread_dip_p", "holm_p", "bimodal"]
SUMMARY_COLUMNS += ["loss", "loss_dip", "loss_dip_p", "reason"]


def summary(
    table: pd.DataFrame,
    *,
    success: float = SUCCESS,
    resolution: float | None = None,
    bootstrap: int | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Statistics over the seeds of every scale.

    Args:
        table: rows of :func:`geomfast.analysis.population.outcomes` of one population.
        success: score from which a member has succeeded.
        resolution: width that scores were rounded to; when None that of
            :func:`geomfast.analysis.population.resolution_of`.
        bootstrap: samples behind the 95% percentile intervals, of members with replacement; when
            None :func:`bootstrap_of` the table.
        seed: of the bootstrap.

    Returns:
        One row per scale, in the order of the table:

        - ``seeds`` (finished), ``unfinished``, ``successes``;
        - ``mode``: mean of the scores in the fullest of :data:`BINS` equal bins (the lower of
          two) over [0, 1], or over the range of all scores if some lie outside;
        - ``mean``; ``success``, the share of seeds that succeed; ``given_success``, the mean of
          those (NaN if none); each with ``_low`` and ``_high``.  The interval of ``success`` is
          the wider of bootstrap and Wilson, as the bootstrap of no success at all has no width;
        - ``dip`` and ``dip_p`` of the scores as they are, ``spread_dip`` and ``spread_dip_p`` with
          ties spread over the resolution (:func:`geomfast.analysis.population.spread_ties`), and
          ``holm_p``, the latter corrected for the number of scales tested (Holm);
        - ``bimodal``: ``holm_p`` below :data:`ALPHA`; a single mode is rejected, so there are
          two or more;
        - ``loss`` (mean), ``loss_dip`` and ``loss_dip_p``, where the table has the loss: two groups
          that show in a continuous measure too are not made by the threshold of exact match;
        - ``reason``: why statistics are missing, empty if none are.  Below :data:`LEAST_SEEDS`
          seeds all are.

    Raises:
        ValueError: several populations in one table, no bootstrap samples, or a resolution below
            zero.
    """
    one_population(table)
    bootstrap = bootstrap_of(table) if bootstrap is None else bootstrap
    if bootstrap < 1:
        raise ValueError(f"bootstrap must be at least 1, got {bootstrap}")
    resolution = resolution_of(table) if resolution is None else resolution
    if not resolution >= 0.0:
        raise ValueError(f"resolution must be 0 or more, got {resolution}")
    edges = bins(table)
    generator = np.random.default_rng(seed)
    every_size = not many_sizes(table.groupby("scale", sort=False)["score"].count())
    # Arrays: a table of thousands of scales would spend its time in pandas' own.
    codes, names = pd.factorize(table["scale"])
    order = np.argsort(codes, kind="stable")
    of = {name: table[name].to_numpy(dtype=float) for name in ("parameters", "score", "loss")}
    rows = []
    for at in np.split(order, np.flatnonzero(np.diff(codes[order])) + 1):
        finished = at[~np.isnan(of["score"][at])]
        scores = np.sort(of["score"][finished])
        row: dict[str, Any] = dict.fromkeys(SUMMARY_COLUMNS, math.nan)
        row |= {
            "scale": names[codes[at[0]]],
            "parameters": float(of["parameters"][at[0]]),
            "seeds": len(scores),
            "unfinished": len(at) - len(scores),
            "successes": int((scores >= success).sum()),
            "reason": _too_few(len(scores)),
        }
        if not row["reason"]:
            row |= _centres(scores, success, edges, bootstrap, generator)
            row |= _dips(scores, resolution, every_size)
            losses = of["loss"][finished]
            row |= _of_loss(losses[~np.isnan(losses)], every_size)
            if np.ptp(scores) == 0:
                row["reason"] = "all scores equal"
        rows.append(row)
    found = pd.DataFrame(rows, columns=SUMMARY_COLUMNS)
    found["holm_p"] = holm(found["spread_dip_p"].to_numpy(dtype=float))
    found["bimodal"] = found["holm_p"] < ALPHA
    return found


def bootstrap_of(table: pd.DataFrame) -> int:
    """Default number of bootstrap samples for a table: usually 1,000."""
    return int(np.clip(DRAWN // max(len(table), 1), FEWEST, BOOTSTRAP))


def one_population(table: pd.DataFrame) -> None:
    """Refuse a table of several tasks or lengths.

    Raises:
        ValueError: it holds several populations, or none.
    """
    if len(table) and all(
        (table[name] == table[name].iloc[0]).all() for name in ("task", "length")
    ):
        return
    kinds = table[["task", "length"]].drop_duplicates()
    if len(kinds) != 1:
        raise ValueError(f"expected one task and length, got {len(kinds)}")


def bins(table: pd.DataFrame) -> np.ndarray:
    """(:data:`BINS` + 1,) edges of the histograms of a population, equal for all its scales."""
    scores = table["score"].dropna().to_numpy()
    low, high = (scores.min(), scores.max()) if len(scores) else (0.0, 1.0)
    if low >= 0.0 and high <= 1.0:
        low, high = 0.0, 1.0
    return np.linspace(low, high if high > low else low + 1.0, BINS + 1)


def holm(p: np.ndarray) -> np.ndarray:
    """p-values corrected for their number (Holm 1979); NaN where there is none.

    Args:
        p: (k,) NaN where nothing was tested.
    """
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    corrected = np.full(len(p), math.nan)
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1.0)
    return corrected


def percentiles(samples: np.ndarray) -> tuple[float, float]:
    """Ends of a 95% percentile interval of bootstrap values; NaN if more than 5% of them are."""
    if np.isnan(samples).mean() > 0.05:
        return math.nan, math.nan
    low, high = np.nanpercentile(samples, [2.5, 97.5])
    return float(low), float(high)


def _too_few(seeds: int) -> str:
    if seeds == 0:
        return "no finished member"
    return "" if seeds >= LEAST_SEEDS else f"{seeds} seeds; statistics need {LEAST_SEEDS}"


def _centres(
    scores: np.ndarray,
    success: float,
    edges: np.ndarray,
    bootstrap: int,
    generator: np.random.Generator,
) -> dict[str, float]:
    """Mode, mean, share of successes and mean of these, with their intervals."""
    n = len(scores)
    place = np.clip(np.digitize(scores, edges) - 1, 0, len(edges) - 2)
    in_bin = np.eye(len(edges) - 1)[place]
    successes = scores >= success
    per_member = np.column_stack(
        [in_bin, in_bin * scores[:, None], scores, successes, scores * successes]
    )
    # How often each member is drawn; the first row is the sample itself.
    totals = [np.ones((1, n)) @ per_member]
    at_a_time = max(1, CHUNK // n)
    for first in range(0, bootstrap, at_a_time):
        size = min(at_a_time, bootstrap - first)
        draws = generator.multinomial(n, np.full(n, 1.0 / n), size=size)
        totals.append(draws.astype(float) @ per_member)
    bins_of = len(edges) - 1
    counts, sums, rest = np.split(np.concatenate(totals), [bins_of, 2 * bins_of], axis=1)
    total, won, total_won = rest.T
    fullest = counts.argmax(axis=1)[:, None]
    mean_won = np.divide(total_won, won, out=np.full(len(won), math.nan), where=won > 0)
    values = {
        "mode": (
            np.take_along_axis(sums, fullest, axis=1) / np.take_along_axis(counts, fullest, axis=1)
        )[:, 0],
        "mean": total / n,
        "success": won / n,
        "given_success": mean_won,
    }
    found = {}
    # Together; those of no success at all in some sample have values missing.
    whole = [name for name, column in values.items() if not np.isnan(column[1:]).any()]
    ends_of = np.percentile([values[name][1:] for name in whole], [2.5, 97.5], axis=1)
    known = {
        name: (float(low), float(high)) for name, low, high in zip(whole, *ends_of, strict=True)
    }
    for name, column in values.items():
        value = column[0]
        low, high = known[name] if name in known else percentiles(column[1:])
        if name == "success":
            ends = wilson(int(successes.sum()), n)
            low, high = min(low, ends[0]), max(high, ends[1])
        if name == "given_success" and successes.sum() < 2:
            low = high = math.nan  # one member is its own bootstrap
        found |= {name: float(value), f"{name}_low": low, f"{name}_high": high}
    return found


def _dips(scores: np.ndarray, resolution: float, every_size: bool) -> dict[str, float]:
    plain, plain_p = dip_test(scores, every_size=every_size)
    if math.isnan(plain):
        return {}
    spread, spread_p = plain, plain_p
    if (np.diff(scores) == 0).any():  # else there is nothing to spread
        spread, spread_p = dip_test(spread_ties(scores, resolution), every_size=every_size)
    return {"dip": plain, "dip_p": plain_p, "spread_dip": spread, "spread_dip_p": spread_p}


def _of_loss(losses: np.ndarray, every_size: bool) -> dict[str, float]:
    if len(losses) < LEAST_SEEDS or not np.isfinite(losses).all():
        return {}
    found, p = dip_test(losses, every_size=every_size)
    return {"loss": float(losses.mean()), "loss_dip": found, "loss_dip_p": p}
