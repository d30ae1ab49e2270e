"""What a tracker says of its budget, on a clock that is made up."""

import pytest

from geomfast.tracker import messages
from geomfast.tracker.budget import Budget
from geomfast.tracker.cadence import Cadence
from geomfast.tracker.schedule import due, due_between
from tests.tracker.test_budget import CHAINS, LOSS, RANKME, Clock, run


def spent(share, total, steps, seconds=0.5, chains=None):
    """A budget after so many steps of 0.1 s, and its counts.

    Args:
        seconds: of a measurement.
        chains: seconds of another group's measurements; None for no such group.
    """
    clock = Clock()
    budget = Budget(share, total, clock)
    costs = {LOSS: seconds} if chains is None else {RANKME: seconds, CHAINS: chains}
    taken = run(
        budget,
        clock,
        steps,
        step_seconds=lambda step: 0.1,
        measure_seconds={group: lambda _, cost=cost: cost for group, cost in costs.items()},
    )
    counts = Cadence({}, [], costs)
    for step in filter(lambda step: due(step, "log"), range(steps + 1)):
        counts.is_due(step)
        counts.take(group for group in costs if step in taken[group])
    return budget, counts


@pytest.mark.parametrize("total", [None, 600])
def test_the_share_that_is_said_to_pay_for_nearly_all_does(total):
    budget, counts = spent(0.05, total, 600)
    taken, of = counts.measured[LOSS], counts.due
    assert taken < of
    said = messages.summary(budget, counts, 600)
    assert said.startswith(f"measured {taken} of {of} due, 0.5 s each; overhead ")
    assert "of 5% allowed; " in said and ("total_steps=600 and" in said) == (total is None)
    share = float(said.split("max_overhead=")[1].split()[0])
    assert 0.25 < share < 0.4
    _, every = spent(share, 600, 600)
    assert every.measured[LOSS] >= of - 1  # the pace is not known before the second step


def test_what_costs_more_than_training():
    budget, counts = spent(0.05, 600, 600, seconds=5.0)
    assert "max_overhead=None would measure all, in about 3." in messages.summary(
        budget, counts, 600
    )


def test_when_thinning_begins():
    budget, counts = spent(0.05, 600, 16)
    said = messages.thinned(budget, 16, "log", counts, [LOSS]) or ""
    whole = counts.due + due_between(17, 600, "log")
    assert said.startswith(
        "from step 16 on the budget does not pay at every due step for any measure: a measurement "
        f"of all takes 0.5 s: max_overhead = 0.05 of a run of about 60 s pays for 6 of {whole}; "
        "max_overhead=0.3"
    )
    budget, counts = spent(0.05, None, 16)
    said = messages.thinned(budget, 16, "log", counts, [LOSS]) or ""
    assert "max_overhead = 0.05 earns in 10 s of training; with total_steps" in said
    budget, counts = spent(0.05, 600, 1)  # the pace is not known yet
    assert messages.thinned(budget, 1, "log", counts, [LOSS]) is None


def test_the_measure_that_costs_is_named():
    budget, counts = spent(0.05, 3000, 3000, seconds=0.02, chains=4.0)
    n, of = counts.measured[CHAINS], counts.due
    assert 1 < n < counts.measured[RANKME]
    said = messages.summary(budget, counts, 3000)
    assert f"; llc {n} of {of}, 4 s each; overhead 4" in said and "rankme" not in said
    assert "max_overhead=0.7 would pay for nearly all" in said
    budget, counts = spent(0.05, 3000, 16, seconds=0.02, chains=4.0)
    said = messages.thinned(budget, 16, "log", counts, [CHAINS]) or ""
    assert "at every due step for llc (4 s each): max_overhead" in said
    assert abs(int(said.split("pays for ")[1].split()[0]) - n) <= 1 and f" of {of}; " in said


def test_all_that_was_due():
    budget, counts = spent(None, None, 100)
    assert messages.summary(budget, counts, 100) == (
        f"measured {counts.due} of {counts.due} due, 0.5 s each; overhead "
        f"{50 * counts.due / 10:.0f}%"
    )
    assert messages.wide(0.05) is messages.wide(None) is None and "5%" in (messages.wide(5) or "")
