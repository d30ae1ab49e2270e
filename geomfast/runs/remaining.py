"""How long work still takes, learned from records of this machine and from the work itself."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from geomfast import machine
from geomfast.files import FileError
from geomfast.measures.catalog import part_of
from geomfast.records import RecordsError, load_records
from geomfast.runs.estimate import makespan
from geomfast.runs.executors.events import TERMINAL, Event
from geomfast.runs.timing import TRAINING, read_seconds


@dataclass(frozen=True)
class Piece:
    """A piece of work, as far as its duration depends on it.

    Attributes:
        name: name of the run, group or job.
        scale: name of what takes equally long: a scale, or a series of checkpoints.
        lacking: names of the measures to take, by checkpoint step.
        members: number of models trained and measured together.
        trains: whether models are trained from one checkpoint to the next.
    """

    name: str
    scale: str
    lacking: Mapping[int, set[str]]
    members: int = 1
    trains: bool = True


@dataclass
class Rate:
    """Seconds that an activity took, and how many steps or checkpoints of a member that was for."""

    seconds: float = 0.0
    count: float = 0.0

    def add(self, seconds: float, count: float) -> None:
        """Count some more of it."""
        self.seconds += seconds
        self.count += count


#: Activities beside measures, which an estimate counts once they have been seen.
OVERHEAD = ("fetching", "loading")
Rates = dict[tuple[str, str], Rate]


def recorded_rates(out: Path, calls: Sequence[Mapping[str, Any]], device: str) -> Rates:
    """Rates by scale and activity, from the records in a folder.

    Args:
        out: folder of the results.
        calls: calls that ``settings.json`` lists; if another machine made one, nothing is learned.
        device: device that work is done on; records of other types of device do not count.
    """
    rates: Rates = {}
    try:
        if {call.get("machine") for call in calls} - {machine.describe()}:
            return rates
        records = load_records(out)
        kind = device.partition(":")[0]
        records = records[records["device"].str.partition(":")[0] == kind]
        parts = records["measure"].map(part_of)
        for (scale, part), rows in records.groupby(["scale", parts], observed=True):
            count = len(rows[["run", "step"]].drop_duplicates())
            rates[str(scale), str(part)] = Rate(float(rows["seconds"].sum()), count)
        last = records.groupby(["scale", "run"], observed=True)["step"].max()
        for (scale, run), step in last.items():  # pyright: ignore[reportGeneralTypeIssues]
            trained = read_seconds(out / "records" / str(run))[TRAINING]
            if trained:
                rates.setdefault((str(scale), TRAINING), Rate()).add(trained, int(step))
    except (OSError, FileError, RecordsError):
        pass  # the estimate does without; reading the records for a result raises
    return rates


@dataclass
class _Progress:
    """What is known of a piece of work: its step, its activity, and since when."""

    piece: Piece
    step: int = 0
    doing: str = ""
    since: float = 0.0
    done: set[tuple[int, str]] = field(default_factory=set)
    ended: bool = False


class Remaining:
    """Estimates the time left from events.

    Args:
        pieces: all work that is left.
        workers: number of pieces at the same time.
        rates: rates known before; see :func:`recorded_rates`.
    """

    def __init__(self, pieces: Iterable[Piece], workers: int, rates: Rates | None = None) -> None:
        self._known = {piece.name: _Progress(piece) for piece in pieces}
        self._workers = workers
        self._recorded: Rates = rates or {}
        self._learned: Rates = {}

    def hear(self, event: Event, now: float | None = None) -> None:
        """Learn from an event."""
        one = self._known.get(event.run)
        if one is None:
            return
        now = time.monotonic() if now is None else now
        if event.kind in ("started", "lost"):
            one.doing = ""
        self._count(one, event, now)
        if event.doing != one.doing or event.step != one.step:
            one.since = now
        one.step, one.doing = max(one.step, event.step), event.doing
        one.ended = event.kind in TERMINAL

    def _count(self, one: _Progress, event: Event, now: float) -> None:
        """Count the time since the last event for the activity that it was in."""
        if event.doing == one.doing and event.step == one.step:
            return  # the same goes on
        took = (now - one.since) / one.piece.members
        if one.doing == TRAINING:
            self._rate(one, TRAINING).add(took, max(0, event.step - one.step))
            return
        names = [name for name in one.doing.split(", ") if name]
        for name in names:
            # Members of a group are measured one after the other, and count once.
            new = (one.step, name) not in one.done
            self._rate(one, name).add(took / len(names), new)
            one.done.add((one.step, name))

    def _rate(self, one: _Progress, name: str) -> Rate:
        return self._learned.setdefault((one.piece.scale, name), Rate())

    def seconds(self, now: float | None = None) -> float | None:
        """Seconds until all is done; None while the rate of some activity is unknown."""
        now = time.monotonic() if now is None else now
        each = [self._left(one, now) for one in self._known.values() if not one.ended]
        known = [seconds for seconds in each if seconds is not None]
        return makespan(known, self._workers) if len(known) == len(each) else None

    def _left(self, one: _Progress, now: float) -> float | None:
        needs: dict[str, float] = {}
        for step, names in one.piece.lacking.items():
            for name in names:
                if step >= one.step and (step, name) not in one.done:
                    needs[name] = needs.get(name, 0.0) + 1.0
        steps = max(one.piece.lacking, default=0) - one.step
        if one.piece.trains and steps > 0:
            needs[TRAINING] = steps
        total = 0.0
        for name, count in needs.items():
            key = (one.piece.scale, name)
            rates = (self._learned.get(key), self._recorded.get(key))
            rate = next((rate for rate in rates if rate is not None and rate.count), None)
            if rate is None and name not in OVERHEAD:
                return None
            if rate is None:
                continue
            total += count * rate.seconds / rate.count
        total *= one.piece.members
        return max(0.0, total - (now - one.since)) if one.doing else total
