"""The folder that a tracker writes to: settings, the records of its run, its wall time."""

from __future__ import annotations

import datetime
import fcntl
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from geomfast import machine
from geomfast.files import write_json
from geomfast.integrations.measure.folder import settled
from geomfast.records import part_name, write_part
from geomfast.sweep.folder import check_folder, locked, read_settings
from geomfast.sweep.parts import recorded
from geomfast.sweep.wall import TRAINING, WRITING, read_wall, write_wall

KIND = "tracker"
_SETTINGS = "settings.json"


class RunFolder:
    """A run's part of OUT; other runs, of other seeds say, may be tracked into the same OUT.

    Args:
        out: the folder.
        run: name of the run.
        settings: what all its values share.
        of_measures: settings of each measure; those that OUT has of other measures stay.

    Raises:
        PlanError: OUT cannot be written, or belongs to something else or to a tracker with other
            settings.
        FolderInUse: another tracker has this run.
    """

    def __init__(
        self,
        out: Path,
        run: str,
        settings: dict[str, Any],
        of_measures: dict[str, dict[str, Any]],
    ):
        check_folder(out)
        self.out, self.run = out, run
        self.records = out / "records" / run
        self._lock = ExitStack()
        with ExitStack() as leaving:
            leaving.enter_context(locked(self.records, f"run {run} in {out}"))
            for remains in self.records.glob(".tmp-*"):
                remains.unlink(missing_ok=True)
            self.recorded = set(recorded(self.records))
            with self._alone():
                content = settled(out, settings, of_measures, {run: []}, {}, KIND)
                content["tracking"] = self._tracking()
                call = {
                    "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                    "machine": machine.describe(),
                    "versions": machine.versions(),
                }
                content["calls"] = [*content["calls"], call]
                write_json(out / _SETTINGS, content)
            self._known = set(content["hashes"])
            self._before = read_wall(self.records)
            self._lock = leaving.pop_all()

    def write(
        self,
        step: int,
        names: Iterable[str],
        rows: list[dict[str, Any]],
        hashes: Mapping[str, Mapping[str, Any]],
    ) -> None:
        """Write one checkpoint's records, after what their hashes stand for.

        Args:
            step: of the checkpoint.
            names: of the measures in the rows.
            rows: whole, but for the run and step.
            hashes: settings by the hash that the rows have of them.

        Raises:
            OSError: the disk is full or not writable; earlier records are untouched.
        """
        if new := {name: dict(told) for name, told in hashes.items() if name not in self._known}:
            self._change(hashes=new)
            self._known |= new.keys()
        shared = {"run": self.run, "step": step}
        write_part(self.records / part_name(step, names), [{**row, **shared} for row in rows])
        self.recorded.add(step)

    def note(self, **told: Any) -> None:
        """Note in ``settings.json`` how this run is tracked."""
        self._change(tracking={self.run: self._tracking().get(self.run, {}) | told})

    def wall(self, training: float, writing: float) -> None:
        """Note the seconds of this tracker's time, on top of those before it."""
        before = self._before
        seconds = {"train": before[TRAINING] + training, "write": before[WRITING] + writing}
        write_wall(self.records, seconds)

    def close(self) -> None:
        """Let others have the run."""
        self._lock.close()

    def _change(self, **parts: Mapping[str, Any]) -> None:
        with self._alone():
            content = read_settings(self.out / _SETTINGS, KIND)
            for name, part in parts.items():
                content[name] = content.get(name, {}) | dict(part)
            write_json(self.out / _SETTINGS, content)

    def _tracking(self) -> dict[str, Any]:
        path = self.out / _SETTINGS
        return read_settings(path, KIND).get("tracking", {}) if path.exists() else {}

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Inside, no other process changes ``settings.json``."""
        with (self.out / ".settings.lock").open("a") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
