"""Runs that failed: why is kept until they succeed."""

from pathlib import Path

from geomfast.runs.failures import clear_failure, failed_before, mark_failed

TRACEBACK = 'Traceback (most recent call last):\n  File "loop.py", line 3\nValueError: bad\n'


def test_the_error_comes_first_and_the_traceback_last(tmp_path: Path) -> None:
    mark_failed(tmp_path, "joint-nano-seed0", 40, "ValueError: bad", TRACEBACK)
    text = (tmp_path / "failures" / "joint-nano-seed0.txt").read_text()
    assert text.startswith("ValueError: bad\n\njoint-nano-seed0 failed at step 40, 20")
    assert text.endswith("\n" + TRACEBACK)


def test_a_later_failure_takes_the_place_of_the_first(tmp_path: Path) -> None:
    mark_failed(tmp_path, "a", 40, "ValueError: bad", TRACEBACK)
    mark_failed(tmp_path, "a", 41, "process killed by SIGKILL\n(out of memory?)", "")
    mark_failed(tmp_path, "b", 0, "", "")
    assert failed_before(tmp_path) == {"a": "process killed by SIGKILL", "b": ""}
    text = (tmp_path / "failures" / "a.txt").read_text()
    assert "at step 41" in text and "Traceback" not in text and "step 40" not in text
    assert not list(tmp_path.rglob(".tmp-*"))


def test_success_clears_a_failure_and_may_be_told_twice(tmp_path: Path) -> None:
    mark_failed(tmp_path, "a", 1, "bad", "")
    mark_failed(tmp_path, "a-b", 1, "worse", "")
    for _ in range(2):
        clear_failure(tmp_path, "a")
    assert failed_before(tmp_path) == {"a-b": "worse"}


def test_where_nothing_failed_there_is_nothing(tmp_path: Path) -> None:
    clear_failure(tmp_path, "a")
    assert failed_before(tmp_path) == {} and not list(tmp_path.iterdir())
