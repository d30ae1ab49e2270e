"""The tables of a population's report in the terminal, as CSV and as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from geomfast.analysis.population import ALPHA
from geomfast.report.names import in_terminal, labels, one_line
from geomfast.report.population.data import LONGEST_NAME, MOST_SCALES, Population, scale_labels
from geomfast.report.population.figures.common import p_text, size_text
from geomfast.report.tables import Write, plain, write_csv

#: Headings of the summary on the page and in the terminal.
HEADINGS = ("scale", "size", "finished", "P(success)", "given success", "mode", "one mode")
_NONE = "–"
#: Most populations that are printed, and most letters of a remark.
PRINTED, _LONGEST_REMARK = 8, 600
#: Most unfinished seeds of a scale that are named; the table of outcomes has all.
_LISTED = 10


def summary_rows(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """A row of texts per scale, in the order of :data:`HEADINGS`.

    Args:
        rows: of :func:`geomfast.analysis.population.summary`, None or NaN where a value is missing.
    """
    found = []
    for row in rows:
        known = {k: math.nan if v is None else v for k, v in row.items()}
        size = size_text(known["parameters"]) or _NONE
        seeds = f"{known['seeds']}/{known['seeds'] + known['unfinished']}"
        texts = [str(known["scale"]), size, seeds]
        if math.isnan(known["mean"]):
            found.append([*texts, _NONE, _NONE, _NONE, str(known["reason"])])
            continue
        texts += [_share(known, "success"), _value(known, "given_success")]
        found.append([*texts, f"{known['mode']:.2f}", one_mode(known)])
    return found


def one_mode(row: Mapping[str, Any]) -> str:
    """Result of the dip test of a single mode at one scale."""
    if math.isnan(row["holm_p"]):
        return str(row["reason"])
    return f"{'rejected' if row['bimodal'] else 'not rejected'}, {p_text(row['holm_p'])}"


def key_lines(population: Population) -> list[tuple[str, str, str]]:
    """Label, value and remark of the key numbers."""
    found = population.summary
    tested = found[found["holm_p"].notna()]
    several = tested.loc[tested["bimodal"], "scale"].tolist()
    remark = _listed(several) if several else "by Hartigan's dip, corrected for their number"
    count = f"{len(several)} of {len(tested)}" if len(tested) else "none tested"
    lines = [("Scales with more than one mode", count, remark), *_mode_lines(population)]
    lines += _unfinished_lines(population)
    lines += _unlocking_lines(population)
    known = found[found["success"].notna()]
    if len(known):
        some = known.loc[known["successes"] > 0, "scale"].tolist()
        most = known.loc[known["success"] >= 0.5, "scale"].tolist()
        remark = f"most seeds succeed first at {most[0]}" if most else "most seeds succeed nowhere"
        lines.append(("First scale with a success", some[0] if some else "none", remark))
    return [*lines, *_curve_lines(population), *_geometry_lines(population)]


def _mode_lines(population: Population) -> list[tuple[str, str, str]]:
    """Whether two groups of seeds foretell others better than one."""
    fitted = population.modes.dropna(subset="gain")
    if fitted.empty:
        return []
    two = fitted[fitted["two"]]
    told = [
        f"{row.scale}: {row.share:.0%} near {row.high:.2f}, the others near {row.low:.2f} "
        f"({row.gain:+.2f} ± {row.stderr:.2f} nats a seed)"
        for row in two.itertuples()
    ]
    best = fitted.nlargest(1, "gain").iloc[0]
    remark = _listed(told, "; ") or (
        f"largest gain {best['gain']:+.2f} ± {best['stderr']:.2f} nats a seed, at {best['scale']}"
    )
    return [("Two groups foretell better than one", f"{len(two)} of {len(fitted)}", remark)]


def _unlocking_lines(population: Population) -> list[tuple[str, str, str]]:
    peak = population.unlocking
    if not peak.scale:
        return []
    remark = (
        f"largest W2 is that from {peak.before} to {peak.scale}: {peak.w2:.2f} ({peak.low:.2f} to "
        f"{peak.high:.2f}), {p_text(peak.p)}"
    )
    if peak.p >= ALPHA:
        return [("Unlocks at", "nowhere clearly", remark)]
    if population.distances["w2"].count() > 1:
        remark += f"; so in {peak.share:.0%} of bootstrap samples"
    if peak.change < 0:
        return [("Lost at", peak.scale, f"scores fall there: {remark}")]
    return [("Unlocks at", peak.scale, remark)]


def _unfinished_lines(population: Population) -> list[tuple[str, str, str]]:
    """Members without an outcome by scale, whose training diverged or is not over."""
    left = population.table[population.table["score"].isna()]
    if left.empty:
        return []
    seeds = [
        f"{scale}: seed{'s' * (len(rows) > 1)} {', '.join(map(str, rows[:_LISTED]))}"
        + (" ..." if len(rows) > _LISTED else "")
        for scale, rows in left.groupby("scale", sort=False)["seed"]
    ]
    return [("Unfinished members, left out", str(len(left)), _listed(seeds, "; "))]


def _listed(texts: Sequence[str], mark: str = ", ") -> str:
    more = len(texts) - _LISTED
    return mark.join(texts[:_LISTED]) + (f" and {more:,} more" if more > 0 else "")


def _curve_lines(population: Population) -> list[tuple[str, str, str]]:
    curves, _, scales = population.curves
    if curves.empty:
        return []
    texts = []
    for name in ("breakthroughness", "linearity"):
        # No interpolation: between a number and infinity there is none.
        low, middle, high = curves[name].quantile([0.05, 0.5, 0.95], interpolation="nearest")
        texts.append((f"{middle:.1f}", f"{low:.1f} to {high:.1f}"))
    remark = (
        f"median over curves of single seeds (5-95%: {texts[0][1]}); linearity {texts[1][0]} "
        f"({texts[1][1]}); a straight line has {len(scales) - 1} of both"
    )
    return [("Breakthroughness", texts[0][0], remark)]


def _geometry_lines(population: Population) -> list[tuple[str, str, str]]:
    best = population.best_early
    best = best[best["cells"] > 0] if len(best) else best
    if best.empty:
        return []
    row = best.iloc[int(best["family_p"].to_numpy(dtype=float).argmin())]
    remark = (
        f"AUC of RankMe at {row['scale']}, {row['layer']}, step {int(row['step']):,}: 95% "
        f"{row['low']:.2f} to {row['high']:.2f}, {p_text(row['family_p'])} corrected"
    )
    if not math.isnan(row["loss_auc"]):
        remark += f"; of the loss there {row['loss_auc']:.2f}"
    return [("Early geometry", f"{row['auc']:.2f}", remark)]


def frames(population: Population) -> dict[str, pd.DataFrame]:
    """The tables behind the report by name, without empty ones."""
    curves, points, scales = population.curves
    drawn = pd.concat([curves, pd.DataFrame(points, columns=scales, index=curves.index)], axis=1)
    found = {
        "outcomes": population.table,
        "summary": population.summary,
        "modes": population.modes,
        "distances": population.distances,
        "curves": drawn,
        "seeds": population.seeds_curve,
        "seeds_needed": population.seeds_needed,
        "geometry": population.geometry,
        "early_geometry": population.best_early,
    }
    return {name: frame for name, frame in found.items() if not frame.empty}


def write(folder: Path, population: Population, file: Write) -> list[Path]:
    """Write every table of one population to ``folder``, by ``file``."""
    return [write_csv(folder / f"{n}.csv", frame, file) for n, frame in frames(population).items()]


def write_together(folder: Path, populations: Sequence[Population], file: Write) -> list[Path]:
    """Write the tables of many populations to ``folder``, one file of each kind, by ``file``.

    The columns ``task`` and ``length`` come first.  Curves of single seeds, a thousand of each
    population, are left out.
    """
    kinds: dict[str, list[pd.DataFrame]] = {}
    for population in populations:
        of = {"task": population.task, "length": population.length}
        for name, frame in frames(population).items():
            if name != "curves":
                rest = frame.drop(columns=[*of], errors="ignore")
                rest.insert(0, "length", of["length"])
                rest.insert(0, "task", of["task"])
                kinds.setdefault(name, []).append(rest)
    return [
        write_csv(folder / f"{name}.csv", pd.concat(parts, ignore_index=True), file)
        for name, parts in kinds.items()
    ]


def as_json(population: Population) -> dict[str, Any]:
    """One population as plain JSON values, its many single-seed curves as their quantiles."""
    named = {
        "summary": population.summary,
        "modes": population.modes,
        "distances": population.distances,
        "seeds_needed": population.seeds_needed,
        "early_geometry": population.best_early,
    }
    curves = population.curves[0][["linearity", "breakthroughness"]]
    shares = curves.quantile([0.05, 0.25, 0.5, 0.75, 0.95], interpolation="lower")
    return plain(
        {
            "name": population.name,
            "task": population.task,
            "length": population.length,
            "success": population.success,
            "resolution": population.resolution,
            "members": len(population.table),
            "lines": key_lines(population),
            **named,
            "single_seeds": {
                name: {f"{q:g}": value for q, value in column.items()}
                for name, column in (shares.items() if len(curves) else ())
            }
            | {"infinite_breakthroughness": float(np.isinf(curves["breakthroughness"]).mean())},
            "unlocking": vars(population.unlocking),
        }
    )


def terminal(result: Mapping[str, Any], console: Console) -> None:
    """Print the populations' summaries and key lines; 80 columns are enough.

    Of more than :data:`PRINTED` populations, or of more scales than a figure shows, the first.

    Args:
        result: of :func:`geomfast.report.population.build`.
        console: where to print.
    """
    for population in result["populations"][:PRINTED]:
        grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left")
        rule = f"success from {population['success']:g}; 95% intervals"
        name = labels([population["name"]], LONGEST_NAME)[population["name"]]
        grid.title = Text(f"{name}: {rule}", style="bold")
        for index, heading in enumerate(HEADINGS):
            overflow = "ellipsis" if index else "fold"  # names that end alike must not look alike
            side = "left" if index in (0, 6) else "right"
            grid.add_column(heading, justify=side, overflow=overflow)
        rows = population["summary"]
        shown = scale_labels([row["scale"] for row in rows])
        for texts in summary_rows(rows[:MOST_SCALES]):
            grid.add_row(in_terminal(shown[texts[0]]), *texts[1:])
        console.print(grid)
        if len(rows) > MOST_SCALES:
            console.print(f"{len(rows) - MOST_SCALES:,} more scales: tables/.../summary.csv")
        for label, value, remark in population["lines"]:
            value, remark = _cut(value), _cut(remark)
            console.print(Text.assemble(f"{label}: ", (value, "bold"), (f"; {remark}", "dim")))
        console.print()
    more = len(result["populations"]) - PRINTED
    if more > 0:
        console.print(f"{more:,} more tasks and lengths, not printed: they are on the page")
    for note in result["notes"]:
        console.print(in_terminal(note), style="bold")


def _cut(text: str) -> str:
    """A text cut to a length that fits on a screen."""
    text = one_line(text)
    return text if len(text) <= _LONGEST_REMARK else f"{text[:_LONGEST_REMARK]} ..."


def _share(row: Mapping[str, Any], name: str) -> str:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return f"{row[name]:.0%} ({100 * low:.0f}–{100 * high:.0f})"


def _value(row: Mapping[str, Any], name: str) -> str:
    if math.isnan(row[name]):
        return _NONE
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    ends = "" if math.isnan(low) else f" ({low:.2f}–{high:.2f})"
    return f"{row[name]:.2f}{ends}"
