"""Judging claims and drawing take most of a report's time: ways to do only what a test is about."""

import importlib
from collections.abc import Callable, Iterator

import pytest

from geomfast.report import figures


def judge_few(monkeypatch: pytest.MonkeyPatch) -> None:
    # Not geomfast.analysis.claims, which is the function of that name.
    module = importlib.import_module("geomfast.analysis.claims")
    monkeypatch.setattr(module, "CLAIMS", module.CLAIMS[:3])


@pytest.fixture(scope="module")
def few_claims() -> Iterator[None]:
    """Of all claims the first three only, in all tests of a module."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        judge_few(monkeypatch)
        yield


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Leaves the report the first three claims, and no figures but those of the given names."""

    def keep(*names: str) -> None:
        judge_few(monkeypatch)
        for group in ("FIGURES", "OVERVIEW", "TRACKED", "TRACKED_OVERVIEW", "COMPARED"):
            pictures = [p for p in getattr(figures, group) if p.name in names]
            monkeypatch.setattr(figures, group, tuple(pictures))

    return keep
