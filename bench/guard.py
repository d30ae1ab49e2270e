"""Fails when a measured ratio falls below the committed one by more than its margin.

    python bench/guard.py RESULTS BASELINE

RESULTS is what `pytest bench/ --results RESULTS` wrote. BASELINE maps each guarded ratio to its
value and margin: 4.0 with margin 0.25 fails below 3.0. Times are never compared, since they are the
machine's; a ratio comes from one interleaved run.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any


def compare(results: dict[str, Any], baseline: dict[str, Any]) -> list[tuple[str, str, bool]]:
    """One (ratio, what was found, whether it passes) for each ratio of the baseline."""
    rows = []
    for name, expected in baseline["ratios"].items():
        lowest = expected["value"] * (1.0 - expected["margin"])
        measured = results["ratios"].get(name)
        if measured is None:
            rows.append((name, "not measured", False))
            continue
        found = f"{measured:8.2f} x   committed {expected['value']:.2f}, at least {lowest:.2f}"
        rows.append((name, found, measured >= lowest))
    return rows


def main(arguments: list[str] | None = None) -> int:
    """Prints the table; returns 0 if every ratio passes, 1 if one fails."""
    parser = argparse.ArgumentParser(description="Compare measured ratios with the committed ones.")
    parser.add_argument("results", type=Path)
    parser.add_argument("baseline", type=Path)
    options = parser.parse_args(arguments)
    results = json.loads(options.results.read_text())
    rows = compare(results, json.loads(options.baseline.read_text()))
    for name, found, passes in rows:
        print(f"{'ok  ' if passes else 'FAIL'} {name:<48} {found}")
    failed = sum(not passes for _, _, passes in rows)
    print(f"{len(rows) - failed} of {len(rows)} ratios hold")
    return 1 if failed or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
