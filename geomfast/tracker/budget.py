"""Time budget of a tracker, and the measures it can afford at a step."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from geomfast.measures.checks import real, whole
from geomfast.tracker.schedule import due_between

#: Measurements that tell what the next one costs, and steps that tell the pace.
REMEMBERED, PACES = 4, 64
#: By how much a share is larger that is said to pay for everything, as times differ.
_SAFETY = 1.2
#: Of what share of another's cost a group's is too little to wait for what the other owes.
_APART = 0.1


@dataclass(frozen=True)
class Group:
    """Measures that share their work, and are measured together or not at all.

    Attributes:
        names: of the measures.
        expensive: whether the catalogue says so of one of them.
    """

    names: tuple[str, ...]
    expensive: bool = False

    def __str__(self) -> str:
        return " and ".join(self.names)


@dataclass
class _Cost:
    """Cost of a group so far.

    Attributes:
        recent: seconds of its last measurements; the first, which also loads and compiles, only as
            long as there is no second.
        seconds, times: of all its measurements.
        debt: seconds that the group has taken beyond its part of the budget so far; below 0 what it
            has saved of it.
        part: seconds of its part of the budget to the end that do not pay back a debt.
    """

    recent: deque[float] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    seconds: float = 0.0
    times: int = 0
    debt: float = 0.0
    part: float = math.inf

    @property
    def expected(self) -> float:
        return max(self.recent, default=0.0)

    def add(self, seconds: float) -> None:
        if self.times == 1:
            self.recent.clear()
        self.recent.append(seconds)
        self.seconds += seconds
        self.times += 1


class Budget:
    """The time a tracker may take of a run, counted from when it is made.

    What may be spent is planned over the steps that are due: to the end of the run, projected from
    the pace so far, where its length is known; otherwise until it is twice as long as it is now,
    and then nothing is spent before it is earned. Groups of measures are paid for cheapest first:
    those that the plan pays for at every due step are measured at every due step. What is left is
    divided equally among the more expensive ones, and each is measured where its part has paid back
    its last measurement, so that they are spread evenly over the steps that are due.

    A group is expected to cost what the most expensive of its last few measurements did, as what
    else runs on a machine makes them differ. The first one, of which nothing is known, is always
    allowed, and groups that cost a tenth or less do not wait until it is paid back: that is how far
    the share may be exceeded, unless a run ends early or gets much faster than projected.

    Args:
        share: what may be spent, of the time that the run takes without; None for no bound.
        total: optimiser steps of the whole run; None where that is not known.
        clock: seconds from anywhere.
    """

    def __init__(
        self,
        share: float | None,
        total: int | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ):
        try:
            share = None if share is None else real("max_overhead", share, zero=False)
        except (TypeError, ValueError) as error:
            said = f"max_overhead must be above 0, or None for no bound, not {share!r}"
            raise ValueError(said) from error
        try:
            total = None if total is None else whole("total_steps", total, 1)
        except TypeError as error:
            raise ValueError(str(error)) from error
        self.share, self.total = share, total
        self._spent = 0.0
        self._since: float | None = None
        self._clock = clock
        self._began = clock()
        self._ended: float | None = None
        self._costs: dict[Group, _Cost] = {}
        #: Of a measurement of whatever groups: bringing the copy up to date, and writing.
        self._base = _Cost()
        self._timed = 0.0
        #: Groups that the plan does not pay for at every due step.
        self._spread: set[Group] = set()
        self._before: tuple[int, float] | None = None
        self._paces: deque[float] | None = None

    @property
    def spent(self) -> float:
        """Seconds of the tracker's so far."""
        return self._spent + (0.0 if self._since is None else self._clock() - self._since)

    @property
    def training_seconds(self) -> float:
        """Seconds so far that were not the tracker's."""
        now = self._clock() if self._ended is None else self._ended
        return now - self._began - self.spent

    def end(self) -> None:
        """The run is over: what passes from here on is neither the tracker's nor the training's."""
        if self._ended is None:
            self._ended = self._clock()

    @property
    def overhead(self) -> float:
        """Time spent as a share of the other time: 0.05 for a run that took 5% longer."""
        seconds = self.training_seconds
        return self.spent / seconds if seconds > 0 else 0.0

    def cost(self, group: Group | None = None) -> float:
        """Seconds of a measurement, on average; 0 before the first.

        Args:
            group: that is measured; None for all that was, with what is to be done for whichever.
        """
        of = [self._cost(group)] if group else [self._base, *self._costs.values()]
        return sum(one.seconds for one in of) / max(of[0].times, 1)

    @contextmanager
    def spending(self) -> Iterator[None]:
        """Counts the time inside as the tracker's."""
        self._since = self._clock()
        try:
            yield
        finally:
            self._spent += self._clock() - self._since
            self._since = None

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Like :meth:`spending`, for a measurement whose groups are :meth:`timed` within."""
        begin, self._timed = self._clock(), 0.0
        with self.spending():
            yield
        self._base.add(self._clock() - begin - self._timed)

    @contextmanager
    def timed(self, group: Group) -> Iterator[None]:
        """Notes the time inside as what a group costs."""
        begin = self._clock()
        yield
        seconds, cost = self._clock() - begin, self._cost(group)
        self._timed += seconds
        # A cheap measure's first one may say little of the next: it loads and compiles.
        if group in self._spread or (not cost.times and group.expensive):
            cost.debt += seconds
        cost.add(seconds)

    def record_step(self, step: int) -> None:
        """Notes that the run has come to a step, from which its pace is known."""
        now = step, self.training_seconds
        if self._before is not None and step > self._before[0]:
            if self._paces is None:  # the first step also compiles, allocates and fills caches
                self._paces = deque(maxlen=PACES)
            else:
                at, seconds = self._before
                self._paces.append((now[1] - seconds) / (step - at))
        self._before = now

    def affordable(self, step: int, every: str | int, groups: Sequence[Group]) -> list[Group]:
        """The groups that may be measured at a due step, in their own order.

        Args:
            step: that the run has come to.
            every: as in :func:`geomfast.tracker.schedule.due`.
            groups: all that are due.
        """
        if self.share is None:
            return [*groups]
        known = [group for group in self._by_cost(groups) if self._cost(group).times]
        lasts = self.total is not None and step <= self.total
        end = self.total if lasts and self.total is not None else 2 * step
        seconds = self.projected(step, end)
        if seconds is None:
            return self.affordable_now(groups)
        left = due_between(step, end, every)
        part = self._planned(known, seconds, left, lasts)
        reserve = sum(self._expected(group) for group in known if group not in self._spread)
        reserve = (reserve + self._base.expected) * (left - 1 if lasts else 1)
        may_spend = self.share * (seconds if lasts else self.training_seconds) - self.spent
        chosen: list[Group] = []
        for i, group in enumerate(known):
            money = may_spend + self._of_others(group, known)
            if group in self._spread and not self._is_new(group):
                if self._cost(group).debt > 0.5 * part:
                    continue
                # What more expensive ones save is theirs.
                money += sum(min(self._cost(other).debt, 0.0) for other in known[i + 1 :]) - reserve
            may_spend -= self._take(group, money, chosen)
        return [group for group in groups if group in chosen or group not in known]

    def _planned(self, known: Sequence[Group], seconds: float, left: int, lasts: bool) -> float:
        """Plans what is left of the budget; returns what a group of ``_spread`` earns at a step.

        Args:
            known: groups whose cost is known, cheapest first.
            seconds: without the tracker, from the beginning to the end of the plan.
            left: steps that are due in it from now on.
            lasts: whether its end is that of the run.
        """
        assert self.share is not None
        spread, base = list(known), self._base.expected
        paid: dict[Group, float] = {}
        free = sum(self._cost(group).debt for group in known) - self.spent
        rest = (self.share * seconds + free) / left

        def pay(limit: float) -> None:
            nonlocal rest, base
            while spread and self._expected(spread[0]) <= min(limit, rest - base):
                cost = self._expected(group := spread.pop(0)) + base
                self._cost(group).debt, self._cost(group).part = 0.0, math.inf
                rest, base, paid[group] = rest - cost, 0.0, cost

        def give_up() -> None:
            """One that could not be measured again in this run leaves its part, less its debt."""
            nonlocal rest
            while (
                lasts
                and spread
                and (last := self._cost(spread[-1])).debt > (left * rest / len(spread))
            ):
                spread.pop()
                last.part, rest = -math.inf, max(rest - last.debt / left, 0.0)

        pay(_APART * max((self._expected(g) for g in spread if self._cost(g).debt > 0), default=0))
        give_up()
        pay(math.inf)
        give_up()
        self._spread = set(known) - set(paid)
        if not lasts:  # of what has been earned, less the next step's
            rest = max(self.share * self.training_seconds + free - 2 * sum(paid.values()), 0.0)
        each = max(rest, 0.0) / max(len(spread), 1)
        for group in spread:
            cost = self._cost(group)
            cost.part = left * each - cost.debt
            cost.debt = max(cost.debt - each, -cost.expected)
        return each

    def _of_others(self, group: Group, known: Sequence[Group]) -> float:
        """Debt of far more expensive groups, which a cheap one need not wait for."""
        least = 0.0 if self._is_new(group) else self._expected(group) / _APART
        debts = [self._cost(one).debt for one in known if self._expected(one) >= least]
        return sum(max(debt, 0.0) for debt in debts)

    def affordable_now(self, groups: Sequence[Group]) -> list[Group]:
        """The groups that the time which has passed pays for, in their own order."""
        if self.share is None:
            return [*groups]
        known = [group for group in self._by_cost(groups) if self._cost(group).times]
        may_spend = self.share * self.training_seconds - self.spent
        chosen: list[Group] = []
        for group in known:
            may_spend -= self._take(group, may_spend + self._of_others(group, known), chosen)
        return [group for group in groups if group in chosen or group not in known]

    def _take(self, group: Group, money: float, chosen: list[Group]) -> float:
        """Chooses a group if there is money for it; returns what that is expected to cost."""
        cost = self._expected(group) + (0.0 if chosen else self._base.expected)
        if money < cost:
            return 0.0
        chosen.append(group)
        return cost

    def planned(self, group: Group) -> int:
        """Number of measurements of a group that the plan pays for, from the last due step on."""
        cost = self._cost(group)
        return int(min(max(cost.part, 0.0) / max(cost.expected, 1e-9), 1e9) + 1e-6)

    def projected(self, step: int, end: int | None = None) -> float | None:
        """Seconds that a run takes without the tracker; None where that is not known.

        Args:
            step: that the run has come to.
            end: its last step; None for ``total``.
        """
        end = self.total if end is None else end
        if end is None or not self._paces:
            return None
        # Of the faster ones, for what makes steps slow passes.
        seconds = sorted(self._paces)[len(self._paces) // 4]
        return self.training_seconds + seconds * max(0, end - step)

    def required_share(self, more: Mapping[Group, int], seconds: float) -> float:
        """The share that would pay for more measurements, with a margin, to two digits.

        Args:
            more: how many of each group.
            seconds: that the whole run takes without the tracker.
        """
        spent = self.spent + sum(times * self._expected(group) for group, times in more.items())
        spent += max(more.values(), default=0) * self._base.expected
        share = _SAFETY * spent / max(seconds, 1e-9)
        unit = 10.0 ** (math.floor(math.log10(share)) - 1) if share > 0 else 1.0
        return float(f"{math.ceil(share / unit) * unit:.2g}")

    def _cost(self, group: Group) -> _Cost:
        return self._costs.setdefault(group, _Cost())

    def _expected(self, group: Group) -> float:
        return self._cost(group).expected

    def _is_new(self, group: Group) -> bool:
        """Whether the only timing of a cheap measure may be unrepresentative."""
        return self._cost(group).times == 1 and not group.expensive

    def _by_cost(self, groups: Sequence[Group]) -> list[Group]:
        return sorted(groups, key=lambda one: 0.0 if self._is_new(one) else self._expected(one))
