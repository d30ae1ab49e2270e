"""The file of `gpu.py`: what is known of the machine, every step, every result so far."""

import json
import os
from pathlib import Path
from typing import Any

SECTIONS = {
    "comparison": "comparisons",
    "test": "tests",
    "sanitizer": "sanitizers",
    "value": "values",
}
SAME = ("device", "driver", "versions")


class Record:
    """One JSON file, rewritten whole as each result arrives.

    Args:
        path: of the file; `path` + ".lines" holds what a step reported and is not yet merged.
        machine: "device", "driver" and "versions", whose results may be mixed, and what else there
            is to say of it.
    """

    def __init__(self, path: Path, machine: dict[str, Any]):
        self.path, self.lines = path, path.with_name(path.name + ".lines")
        self.document: dict[str, Any] = {**machine, "steps": {}}
        self.document |= {section: {} for section in SECTIONS.values()}
        self.read = 0
        earlier = self._earlier()
        if earlier is not None and all(earlier.get(x) == machine.get(x) for x in SAME):
            self.document = {**self.document, **earlier, **machine}
            self.merge(write=False)  # of a run that was killed before it could
        elif earlier is not None:
            path.replace(path.with_name(path.name + ".other-machine"))
        self.forget_lines()

    def _earlier(self) -> dict[str, Any] | None:
        try:
            return json.loads(self.path.read_text())
        except (OSError, ValueError):
            return None

    def forget_lines(self) -> None:
        self.lines.unlink(missing_ok=True)
        self.read = 0

    def merge(self, write: bool = True) -> list[dict[str, Any]]:
        """Takes over the lines that are new and whole; returns them."""
        try:
            with self.lines.open("rb") as file:
                file.seek(self.read)
                new = file.read()
        except FileNotFoundError:
            return []
        whole = new[: new.rfind(b"\n") + 1]
        self.read += len(whole)
        found = []
        for line in whole.splitlines():
            try:
                result = json.loads(line)
                section = SECTIONS[result["kind"]]
            except (ValueError, KeyError, TypeError):
                continue  # a step that was killed may leave half a line
            self.document[section][result["name"]] = result["value"]
            found.append(result)
        if found and write:
            self.write()
        return found

    def write(self) -> None:
        """Atomically: whoever reads, and whoever comes after a SIGKILL, finds a whole document."""
        self._add_summaries()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(self.path.name + ".tmp")
        with temporary.open("w") as file:
            file.write(json.dumps(self.document, indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path)

    def _add_summaries(self) -> None:
        outcomes = [test["outcome"] for test in self.document["tests"].values()]
        counts = {kind: outcomes.count(kind) for kind in ("passed", "failed", "error", "skipped")}
        self.document["test counts"] = counts
        ceilings = {name: v["value"] for name, v in self.document["values"].items() if "value" in v}
        for comparison in self.document["comparisons"].values():
            work, seconds = comparison.get("work"), comparison.get("milliseconds", {})
            if not work or work["ceiling"] not in ceilings or "geomfast" not in seconds:
                continue
            reached = work["amount"] / (seconds["geomfast"] / 1e3) / 1e12
            share = reached / ceilings[work["ceiling"]]
            comparison["share of the ceiling"] = {work["ceiling"]: round(share, 3)}
