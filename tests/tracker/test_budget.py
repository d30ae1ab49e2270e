"""When a tracker measures: the steps that are due, and a budget on a clock that is made up."""

import itertools
import math
from typing import Any

import numpy as np
import pytest

from geomfast.tracker.budget import Budget, Group
from geomfast.tracker.schedule import check_every, due, due_between

LOSS = Group(("loss",))


class Clock:
    """Seconds that pass only where they are said to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def run(budget, clock, steps, *, step_seconds, measure_seconds, every: Any = "log", first=0) -> Any:
    """The steps measured of a run; seconds of a step and of a measurement are given by number.

    Args:
        measure_seconds: of the only group; or by group, of them all.
    """
    several = isinstance(measure_seconds, dict)
    seconds = measure_seconds if several else {LOSS: measure_seconds}
    taken = {group: [] for group in seconds}
    for step in range(first, steps + 1):
        if step > first:
            clock.now += step_seconds(step)
        budget.record_step(step)
        if due(step, every) and (groups := budget.affordable(step, every, [*seconds])):
            with budget.measuring():
                for group in groups:
                    with budget.timed(group):
                        clock.now += seconds[group](len(taken[group]))
                    taken[group].append(step)
    return taken if several else taken[LOSS]


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


def test_nothing_is_due_after_the_last_step():
    assert due_between(60, 50, 10) == due_between(60, 50, "log") == 0


def test_every_may_be_an_integer_of_numpy():
    assert check_every(np.int64(10)) == 10 and type(check_every(np.int32(10))) is int


@pytest.mark.parametrize("every", [0, -1, np.int64(0), 2.0, True, "linear", None])
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
    with budget.measuring():
        clock.now += 1.0
        assert budget.spent == 1.0 and budget.training_seconds == 10.0
    assert budget.overhead == pytest.approx(0.1)


RANKME, RANKS = Group(("rankme",)), Group(("fisher_rank", "gradient_covariance_rank"))
HESSIAN, CHAINS = Group(("hessian_top",), expensive=True), Group(("llc",), expensive=True)


def of_groups(total, every, steps=3000, share=0.05, **seconds: Any) -> Any:
    """The steps measured of each group, the budget, and seconds of the first measurements."""
    clock = Clock()
    budget = Budget(share, total, clock)
    costs = {RANKME: 0.02, RANKS: 0.05, HESSIAN: 0.8, CHAINS: 6.0}
    given = {group: seconds.get(group.names[0], cost) for group, cost in costs.items()}
    by_number: dict[Group, Any] = {
        group: cost if callable(cost) else (lambda number, cost=cost: cost)
        for group, cost in given.items()
    }
    taken = run(
        budget, clock, steps, step_seconds=lambda step: 0.1, measure_seconds=by_number, every=every
    )
    return taken, budget, sum(cost(0) for cost in by_number.values())


@pytest.mark.parametrize("every", ["log", 50])
def test_the_expensive_measures_are_thinned_first_and_spread(every):
    taken, budget, _ = of_groups(3000, every)  # 15 s are to be spent
    everything = [step for step in range(3001) if due(step, every)]
    # One step's pace is not known before the second.
    for group in (RANKME, RANKS):
        assert len(taken[group]) >= len(everything) - 1 and set(taken[group]) <= set(everything)
    assert 5 <= len(taken[HESSIAN]) < len(everything) and taken[CHAINS] == [0]
    assert 0.04 < budget.overhead <= 0.05
    assert _evenly(taken[HESSIAN], everything)
    taken, budget, _ = of_groups(20_000, every, steps=20_000)
    everything = [step for step in range(20_001) if due(step, every)]
    assert 5 <= len(taken[CHAINS]) < len(taken[HESSIAN]) and 0.04 < budget.overhead <= 0.05
    assert _evenly(taken[CHAINS], everything)


def _evenly(taken, everything):
    """Whether no two gaps between steps taken, counted in steps that are due, differ by much."""
    at = [everything.index(step) for step in taken]
    gaps = [b - a for a, b in itertools.pairwise(at)]
    return max(gaps) <= 2 * min(gaps) + 1


@pytest.mark.parametrize("every", ["log", 50])
def test_without_the_runs_length_measures_are_earned_first(every):
    taken, budget, _ = of_groups(None, every, steps=20_000)
    late = [step for step in range(500, 20_001) if due(step, every)]
    for group in (RANKME, RANKS):
        assert [step for step in taken[group] if step >= 500] == late
    assert len(taken[HESSIAN]) > 5 and 3 <= len(taken[CHAINS]) < 20
    assert taken[CHAINS][-1] > 10_000
    assert 0.03 < budget.overhead <= 0.05


@pytest.mark.parametrize("total", [None, 600])
@pytest.mark.parametrize("chains", [1.0, 6.0, 60.0])
def test_never_over_the_share_but_for_the_first(total, chains):
    taken, budget, first = of_groups(total, "log", steps=600, llc=chains)
    assert budget.spent - first <= 0.05 * budget.training_seconds
    assert taken[CHAINS][0] == 0
    if chains == 60.0:  # twenty times what may be spent: cheap ones go on all the same
        everything = [step for step in range(601) if due(step, "log")]
        assert taken[CHAINS] == [0]
        assert len(taken[RANKME]) >= (len(everything) - 1 if total else 15)


@pytest.mark.parametrize("total", [None, 10_000])
def test_costs_that_change_in_mid_run(total):
    once, _, _ = of_groups(total, 50, steps=10_000, share=0.1)

    def cost(n):
        return 0.8 if n < 10 else 8.0

    taken, budget, first = of_groups(total, 50, steps=10_000, share=0.1, hessian_top=cost)
    assert budget.spent - first <= 0.1 * budget.training_seconds
    assert taken[RANKME] == once[RANKME]
    assert 10 < len(taken[HESSIAN]) < len(once[HESSIAN])

    def cheaper(n):
        return 6.0 if n < 3 else 0.01

    taken, budget, first = of_groups(total, 50, steps=10_000, share=0.1, llc=cheaper)
    assert len(taken[CHAINS]) > 2 * len(once[CHAINS])
    assert budget.spent - first <= 0.1 * budget.training_seconds


def test_a_cheap_measure_that_compiles_at_first_is_not_thinned_for_it():
    taken, budget, _ = of_groups(3000, "log", rankme=lambda n: 0.02 if n else 2.0)
    everything = [step for step in range(3001) if due(step, "log")]
    assert len(taken[RANKME]) >= len(everything) - 2
    assert budget.overhead <= 0.05
