"""When a tracker measures: the steps that are due, and a budget on a clock that is made up."""

import itertools
import math

import pytest

from geomfast.tracker.budget import Budget, check_every, due, due_between


class Clock:
    """Seconds that pass only where they are said to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def run(budget, clock, steps, *, step_seconds, measure_seconds, every="log", first=0):
    """The steps measured of a run; seconds of a step and of a measurement are given by number."""
    taken = []
    for step in range(first, steps + 1):
        if step > first:
            clock.now += step_seconds(step)
        budget.record_step(step)
        if due(step, every) and budget.should_measure(step, every):
            with budget.spending(measuring=True):
                clock.now += measure_seconds(len(taken))
            taken.append(step)
    return taken


def test_due_steps():
    assert [step for step in range(40) if due(step, "log")] == [
        *range(9), 10, 11, 13, 16, 19, 23, 27, 32, 38
    ]  # fmt: skip
    assert [step for step in range(10) if due(step, 3)] == [0, 3, 6, 9]
    assert all(due(2**i, "log") for i in range(40))


@pytest.mark.parametrize("every", ["log", 1, 7])
@pytest.mark.parametrize(("first", "last"), [(0, 0), (0, 1), (1, 2), (5, 5), (3, 1000), (901, 999)])
def test_due_between_counts_them(every, first, last):
    assert due_between(first, last, every) == sum(due(s, every) for s in range(first, last + 1))


@pytest.mark.parametrize("every", [0, -1, 2.0, True, "linear", None])
def test_bad_cadence(every):
    with pytest.raises(ValueError, match="every must be"):
        check_every(every)


@pytest.mark.parametrize("options", [{"share": 0.0}, {"share": -1.0}, {"share": math.nan}])
def test_bad_share(options):
    with pytest.raises(ValueError, match="max_overhead"):
        Budget(**options)


def test_bad_total():
    with pytest.raises(ValueError, match="total_steps"):
        Budget(0.05, 0)


@pytest.mark.parametrize("total", [None, 3000])
@pytest.mark.parametrize("every", ["log", 10])
@pytest.mark.parametrize("measure", [0.001, 0.3, 2.0])
def test_stays_within_the_budget(total, every, measure):
    clock = Clock()
    budget = Budget(0.05, total, clock)
    with budget.spending():  # making the copy
        clock.now += 0.2
    # The first step compiles; measurements become more expensive, and the last ones cheap again.
    taken = run(
        budget,
        clock,
        3000,
        step_seconds=lambda step: 20.0 if step == 1 else 0.1,
        measure_seconds=lambda count: measure * (1.5 if 5 < count < 20 else 1.0),
        every=every,
    )
    assert taken[0] == 0
    assert budget.overhead <= 0.05
    assert budget.training_seconds == pytest.approx(20.0 + 2999 * 0.1)
    everything = [step for step in range(3001) if due(step, every)]
    if measure == 0.001:
        # Without the run's length the first ones have to be earned.
        assert taken == everything if total else len(taken) > len(everything) - 5
    elif measure == 2.0:
        assert len(taken) < len(everything)
        assert budget.overhead > 0.03  # what may be spent is


def test_a_known_length_lets_early_steps_be_measured_at_once():
    def early(total):
        clock = Clock()
        seconds = {"step_seconds": lambda step: 0.1, "measure_seconds": lambda count: 0.5}
        taken = run(Budget(0.05, total, clock), clock, 4000, **seconds)
        return sum(step <= 64 for step in taken)

    assert early(4000) >= 10
    assert early(None) <= 2


def test_spread_over_the_whole_run():
    clock = Clock()
    budget = Budget(0.05, 4000, clock)
    seconds = {"step_seconds": lambda step: 0.1, "measure_seconds": lambda count: 1.0}
    taken = run(budget, clock, 4000, **seconds)
    assert 15 <= len(taken) <= 20  # 20 s are to be spent
    assert taken[1] <= 8 and taken[-1] >= 2000
    assert max(b / a for a, b in itertools.pairwise(taken[1:])) < 3.0


@pytest.mark.parametrize("total", [None, *range(2000, 2010)])
def test_measurements_that_cost_now_more_now_less(total):
    clock = Clock()
    budget = Budget(0.05, total, clock)
    seconds = {"step_seconds": lambda step: 0.1, "measure_seconds": lambda i: (0.5, 1.0)[i % 2]}
    run(budget, clock, total or 2000, every=10, **seconds)
    assert 0.04 < budget.overhead <= 0.05


def test_slow_steps_in_between_are_no_pace():
    clock = Clock()
    budget = Budget(0.05, 1000, clock)
    slow = {3, 4, 9, 17, 18, 30}
    seconds = {"step_seconds": lambda s: 5.0 if s in slow else 0.1, "measure_seconds": lambda i: 1}
    run(budget, clock, 1000, **seconds)
    assert budget.training_seconds == pytest.approx(1000 * 0.1 + len(slow) * 4.9)
    assert budget.overhead <= 0.05


def test_no_bound():
    clock = Clock()
    seconds = {"step_seconds": lambda step: 0.01, "measure_seconds": lambda count: 9.0}
    taken = run(Budget(None, None, clock), clock, 50, **seconds)
    assert taken == [step for step in range(51) if due(step, "log")]


def test_taken_up_again_from_a_later_step():
    clock = Clock()
    budget = Budget(0.05, 1000, clock)
    seconds = {"step_seconds": lambda step: 0.1, "measure_seconds": lambda count: 0.01}
    taken = run(budget, clock, 1000, first=500, **seconds)
    assert budget.overhead <= 0.05
    assert taken[-1] == 861


def test_what_a_measurement_takes_counts_while_it_runs():
    clock = Clock()
    budget = Budget(0.05, None, clock)
    clock.now += 10.0
    with budget.spending(measuring=True):
        clock.now += 1.0
        assert budget.spent == 1.0 and budget.training_seconds == 10.0
    assert budget.overhead == pytest.approx(0.1)
