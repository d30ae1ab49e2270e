"""What a tracker says of its budget, on a clock that is made up."""

import pytest

from geomfast.tracker import messages
from geomfast.tracker.budget import Budget, due, due_between
from tests.tracker.test_budget import Clock, run


def spent(share, total, steps, seconds=0.5):
    """A budget after so many steps of 0.1 s, its steps measured and how many were due."""
    clock = Clock()
    budget = Budget(share, total, clock)
    taken = run(
        budget, clock, steps, step_seconds=lambda step: 0.1, measure_seconds=lambda i: seconds
    )
    return budget, taken, sum(due(step, "log") for step in range(steps + 1))


@pytest.mark.parametrize("total", [None, 600])
def test_the_share_that_is_said_to_pay_for_nearly_all_does(total):
    budget, taken, of = spent(0.05, total, 600)
    assert len(taken) < of
    said = messages.summary(budget, of, len(taken), 600)
    assert said.startswith(f"measured {len(taken)} of {of} due, 0.5 s each; overhead ")
    assert "of 5% allowed; " in said and ("total_steps=600 and" in said) == (total is None)
    share = float(said.split("max_overhead=")[1].split()[0])
    assert 0.25 < share < 0.4
    _, every, _ = spent(share, 600, 600)
    assert len(every) >= of - 1  # the pace is not known before the second step


def test_what_costs_more_than_training():
    budget, taken, of = spent(0.05, 600, 600, seconds=5.0)
    assert "max_overhead=None would measure all, in about 3." in messages.summary(
        budget, of, len(taken), 600
    )


def test_when_thinning_begins():
    budget, taken, of = spent(0.05, 600, 16)
    said = messages.thinned(budget, 16, "log", of, len(taken)) or ""
    assert "from step 16 on less is measured than is due: a measurement takes 0.5 s" in said
    whole = of + due_between(17, 600, "log")
    assert f"of a run of about 60 s pays for 5 of {whole}; max_overhead=0.3" in said
    budget, taken, of = spent(0.05, None, 16)
    said = messages.thinned(budget, 16, "log", of, len(taken)) or ""
    assert "max_overhead = 0.05 earns in 10 s of training; with total_steps" in said
    budget, _, _ = spent(0.05, 600, 1)  # the pace is not known yet
    assert messages.thinned(budget, 1, "log", 2, 1) is None


def test_all_that_was_due():
    budget, taken, of = spent(None, None, 100)
    assert messages.summary(budget, of, len(taken), 100) == (
        f"measured {of} of {of} due, 0.5 s each; overhead {50 * of / 10:.0f}%"
    )
    assert messages.wide(0.05) is messages.wide(None) is None and "5%" in (messages.wide(5) or "")
