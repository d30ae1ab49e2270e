"""pytest plugin of `gpu.py`: reports each test as it ends, and what is an error on that machine.

Collection imports packages of a machine that nobody here has seen, whose warnings are not ours:
the command line makes none an error (`-o filterwarnings=default`). From the first test on they are
errors again, as in CI, but for deprecations, which CI is for, and for cuSOLVER's remark that one
SVD algorithm gave way to another.
"""

import os

import pytest

from bench.gpu_lines import emit

WHILE_TESTING = (
    "error",
    "default::DeprecationWarning",
    "default::PendingDeprecationWarning",
    "default::FutureWarning",
    "default:.*During SVD computation:UserWarning",
    "ignore:Guards may run slower on Python 3.13.0:RuntimeWarning",
)
LAST_LINES = 12


def pytest_collection_finish(session: pytest.Session) -> None:
    for line in WHILE_TESTING:
        session.config.addinivalue_line("filterwarnings", line)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" or report.outcome != "passed":
        outcome = report.outcome
        if report.when != "call" and outcome == "failed":
            outcome = "error"
        _report(report.nodeid, outcome, report)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed:
        _report(report.nodeid, "error", report)


def _report(name: str, outcome: str, report: pytest.TestReport | pytest.CollectReport) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:
        return  # the process that a worker belongs to has the report, too
    text = report.longreprtext if outcome in ("failed", "error") else ""
    value = {"last lines": text.splitlines()[-LAST_LINES:]} if text else {}
    emit("test", name, outcome=outcome, **value)
