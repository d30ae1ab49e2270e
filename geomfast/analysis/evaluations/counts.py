"""How many tasks leave chance at every scale, and how many would by luck."""

from __future__ import annotations

import pandas as pd

from geomfast.analysis.evaluations.rises import ERRORS

COLUMNS = ["run", "scale", "seed", "tasks", "ever_above", "ever_below", "last_above", "last_below"]
COLUMNS += ["by_luck", "rise", "kept", "tenth", "pending", "median_step", "chance_unknown"]


def leaving_chance(leaves: pd.DataFrame, tenth: pd.DataFrame) -> pd.DataFrame:
    """Counts of tasks by run.

    A task at chance is above it by two standard errors at one checkpoint in 44, and at one of many
    checkpoints rather often: what is *ever* above says little.  Beside it stands how many are ever
    below, which only luck or a preference for wrong answers explains, and what remains where the
    rise has to persist and to leave the first value.

    Args:
        leaves, tenth: rows of :func:`geomfast.analysis.evaluations.rises` at both thresholds, for
            the same records.

    Returns:
        One row per run, smallest scale first: ``tasks`` with known chance; ``ever_above`` and
        ``ever_below`` (above and below chance at any checkpoint), ``last_above`` and
        ``last_below`` (at the last: a value of its own), ``by_luck`` (expected above at one
        checkpoint if all were at chance), ``rise`` and ``tenth`` (rises by either threshold),
        ``kept`` (rises that are still above at the last checkpoint),
        ``pending``, ``median_step`` (of the rises) and ``chance_unknown``.
    """
    found = []
    for key, rows in leaves.groupby(["run", "scale", "seed"], sort=False):
        known = rows[rows["chance"].notna()]
        other = tenth[(tenth["run"] == key[0]) & tenth["chance"].notna()]
        errors = ERRORS * known["stderr"]
        found.append(
            dict(zip(("run", "scale", "seed"), key, strict=True))
            | {
                "tasks": len(known),
                "ever_above": int((known["above"] > 0).sum()),
                "ever_below": int((known["below"] > 0).sum()),
                "last_above": int((known["final"] - errors > known["chance"]).sum()),
                "last_below": int((known["final"] + errors < known["chance"]).sum()),
                "by_luck": float((known["expected"] / known["checkpoints"]).sum()),
                "rise": int(known["step"].notna().sum()),
                "kept": int(known["kept"].sum()),
                "tenth": int(other["step"].notna().sum()),
                "pending": int(known["pending"].sum()),
                "median_step": float(known["step"].median()),
                "chance_unknown": len(rows) - len(known),
            }
        )
    return pd.DataFrame(found, columns=COLUMNS)
