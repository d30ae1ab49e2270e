"""The event loop that every command has: what it shows, marks, forgets and returns."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from geomfast.runs.errors import RunError
from geomfast.runs.execute import execute
from geomfast.runs.executors.engine import Engine
from geomfast.runs.executors.events import Event, Progress
from geomfast.runs.failures import failed_before, mark_failed

ENGINE = Engine("local", "cpu", ("cpu",), 2, 1)


@dataclass(frozen=True)
class Piece:
    """Work that fails, explained or not, or finishes."""

    name: str
    out: Path
    error: Exception | None = None
    device: str = "cpu"
    threads: int = 1
    cost: float = 1.0

    def run(self, progress: Progress, stop: Callable[[], bool]) -> bool:
        progress(3, {"loss": 1.0})
        if self.error is not None:
            raise self.error
        return not stop()


class Shown:
    """A display that keeps what it is shown."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []
        self.inside = 0

    def __enter__(self) -> None:
        self.inside += 1

    def __exit__(self, *_: object) -> None:
        self.inside -= 1

    def show(self, event: Event) -> None:
        assert self.inside == 1
        self.events.append((event.run, event.kind))


def never() -> bool:
    return False


def done(out: Path, *pieces: Piece, stop: Callable[[], bool] = never, **how: Any) -> dict[str, str]:
    ended = execute(out, pieces, ENGINE, stop, Shown(), **how)
    return {name: event.kind for name, event in ended.items()}


@pytest.mark.parametrize("error", [RunError("ask for less"), ValueError("of our own")])
def test_what_fails_is_marked_explained_or_not_until_it_succeeds(
    tmp_path: Path, error: Exception
) -> None:
    piece = Piece("a", tmp_path, error)
    assert done(tmp_path, piece, here=True) == {"a": "failed"}
    assert str(error) in failed_before(tmp_path)["a"]
    text = (tmp_path / "failures" / "a.txt").read_text()
    assert "a failed at step 3" in text and "Traceback" in text
    assert done(tmp_path, replace(piece, error=None), here=True) == {"a": "finished"}
    assert failed_before(tmp_path) == {}


def test_in_processes_of_their_own_one_fails_and_the_other_finishes(tmp_path: Path) -> None:
    shown = Shown()
    pieces = [Piece("bad", tmp_path, RunError("why")), Piece("good", tmp_path)]
    ended = execute(tmp_path, pieces, ENGINE, never, shown)
    assert {name: event.kind for name, event in ended.items()} == {
        "bad": "failed",
        "good": "finished",
    }
    assert ended["bad"].explained and ended["good"].state == {"loss": 1.0}
    assert failed_before(tmp_path) == {"bad": "why"}
    told = set(shown.events)
    assert {("bad", "started"), ("bad", "failed"), ("good", "finished")} <= told
    assert shown.inside == 0


def test_what_succeeded_before_is_forgotten_and_the_rest_is_not(tmp_path: Path) -> None:
    for name in ("past", "kept"):
        mark_failed(tmp_path, name, 1, "why", "")
    assert done(tmp_path, succeeded=["past", "never failed"]) == {}
    assert failed_before(tmp_path) == {"kept": "why"}


def test_asked_to_stop_nothing_is_started(tmp_path: Path) -> None:
    assert done(tmp_path, Piece("a", tmp_path), stop=lambda: True, here=True) == {}
    assert done(tmp_path, Piece("a", tmp_path), stop=lambda: True) == {}


def members(piece: Any, event: Event) -> list[Event]:
    """Two runs of a piece of work, the second of which has written down that it failed."""
    first, second = (replace(event, run=f"{event.run}{i}") for i in (0, 1))
    if event.kind == "finished":
        mark_failed(piece.out, second.run, 7, "diverged", "")
        second = replace(second, kind="failed", error="diverged")
    return [first, second]


def test_each_run_of_a_piece_of_work_has_its_own_end(tmp_path: Path) -> None:
    mark_failed(tmp_path, "a0", 1, "earlier", "")
    piece = Piece("a", tmp_path)
    found = done(tmp_path, piece, here=True, results=members)
    assert found == {"a0": "finished", "a1": "failed"}
    assert failed_before(tmp_path) == {"a1": "diverged"}
    failing = replace(piece, error=RunError("all"))
    assert done(tmp_path, failing, here=True, results=members) == {"a0": "failed", "a1": "failed"}
    assert set(failed_before(tmp_path).values()) == {"all"}
