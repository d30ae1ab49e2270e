"""The folder that a tracker writes to: settings, the records of its run, its wall time."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet

from geomfast import machine
from geomfast.files import FileError, inside, plain_name
from geomfast.records import part_files, parts_of, write_part
from geomfast.runs.errors import PlanError
from geomfast.runs.folder import check_folder
from geomfast.runs.locks import FolderInUse, alone, locked
from geomfast.runs.model_folder import merge_settings
from geomfast.runs.recorded import of_other_weights, recorded
from geomfast.runs.settings_file import NAME as _SETTINGS
from geomfast.runs.settings_file import read_settings, write_settings
from geomfast.runs.timing import TRAINING, WRITING, read_seconds, write_seconds

KIND = "tracker"


class RunFolder:
    """A run's part of OUT; other runs, of other seeds say, may be tracked into the same OUT.

    Args:
        out: the folder.
        run: name of the run.
        named: scale and seed that its records name.
        settings: what all its values share.
        of_measures: settings of each measure; those that OUT has of other measures stay.

    Attributes:
        recorded: measures in its records, by step.
        before: steps that were there already.

    Raises:
        PlanError: OUT cannot be written, or belongs to something else or to a tracker with other
            settings; the run is of another scale or seed.
        FolderInUse: another tracker has this run.
    """

    def __init__(
        self,
        out: Path,
        run: str,
        named: Mapping[str, Any],
        settings: dict[str, Any],
        of_measures: dict[str, dict[str, Any]],
    ):
        _check_ours(out)
        check_folder(out)
        self.out, self.run = out, plain_name(run, "run")
        self.records = inside(out, "records", run)
        #: How messages name it.
        self.called = f"run {run!r} in {out}"
        self._lock = ExitStack()
        with ExitStack() as leaving:
            leaving.enter_context(_held(self.records, self.called))
            for remains in self.records.glob(".tmp-*"):
                remains.unlink(missing_ok=True)
            self.recorded = recorded(self.records)
            self.before = frozenset(self.recorded)
            self._check_same(named)
            with alone(out):
                content = merge_settings(out, settings, of_measures, {run: []}, {}, KIND)
                content["tracking"] = self._tracking()
                call = {
                    "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                    "machine": machine.describe(),
                    "versions": machine.versions(),
                }
                content["calls"] = [*content["calls"], call]
                write_settings(out, content)
            self._known = set(content["hashes"])
            self._before = read_seconds(self.records)
            self._lock = leaving.pop_all()

    def of_other_weights(self, step: int, weights: str) -> bool:
        """Whether a recorded step has other weights than these, by their hash."""
        return of_other_weights(self.records, step, weights) is not None

    def write(
        self,
        step: int,
        names: Iterable[str],
        rows: list[dict[str, Any]],
        hashes: Mapping[str, Mapping[str, Any]],
    ) -> None:
        """Write records of one checkpoint, after what their hashes stand for.

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
        names, shared = set(names), {"run": self.run, "step": step}
        complete = [{**row, **shared} for row in rows]
        for path, part in parts_of(self.records, step, names, complete):
            write_part(path, part)
        self.recorded.setdefault(step, set()).update(names)

    def noted(self) -> dict[str, Any]:
        """Entry of this run in ``settings.json``."""
        return self._tracking().get(self.run, {})

    def note(self, **told: Any) -> None:
        """Note in ``settings.json`` how this run is tracked."""
        self._change(tracking={self.run: self.noted() | told})

    def wall(self, training: float, writing: float) -> None:
        """Note the seconds of this tracker's time, on top of those before it."""
        before = self._before
        seconds = {"train": before[TRAINING] + training, "write": before[WRITING] + writing}
        write_seconds(self.records, seconds)

    def check_there(self) -> None:
        """Check that what was recorded is still there, as it is not where OUT was removed.

        Raises:
            FileError: it is not.
            PlanError: a part of it is damaged.
        """
        if gone := self.recorded.keys() - recorded(self.records).keys():
            raise FileError(
                f"records of {len(gone)} steps, the first {min(gone)}, have been removed from "
                f"{self.records} or moved while the run went on"
            )

    def close(self) -> None:
        """Let others have the run."""
        self._lock.close()

    def _check_same(self, named: Mapping[str, Any]) -> None:
        parts = part_files(self.records)
        if not parts:
            return
        table = pyarrow.parquet.read_table(parts[0], columns=list(named))
        for name, value in named.items():
            if (there := table[name][0].as_py()) != value:
                raise PlanError(
                    f"{self.called} is of {name} {there}, not {value}: give this one "
                    "a name of its own (run=...), or another folder"
                )

    def _change(self, **parts: Mapping[str, Any]) -> None:
        with alone(self.out):
            content = read_settings(self.out / _SETTINGS, KIND)
            for name, part in parts.items():
                content[name] = content.get(name, {}) | dict(part)
            write_settings(self.out, content)

    def _tracking(self) -> dict[str, Any]:
        path = self.out / _SETTINGS
        return read_settings(path, KIND).get("tracking", {}) if path.exists() else {}


def _check_ours(out: Path) -> None:
    """Raises PlanError for a folder with files that no tracker put there."""
    if out.is_dir() and not (out / _SETTINGS).exists():
        there = [entry.name for entry in out.iterdir() if not entry.name.startswith(".")]
        if there:
            raise PlanError(
                f"{out} is not empty and has no {_SETTINGS}: not a tracker's folder, with "
                f"{sorted(there)[0]} in it; give the tracker one of its own (out=...)"
            )


@contextmanager
def _held(folder: Path, what: str) -> Iterator[None]:
    """Like :func:`geomfast.runs.locks.locked`, with a message that says what to do."""
    with ExitStack() as held:
        try:
            held.enter_context(locked(folder, what))
        except FolderInUse as error:
            raise FolderInUse(
                f"{what} is in use by another tracker, of this process or another: close it, or "
                "give this one a name of its own (run=...)"
            ) from error
        yield
