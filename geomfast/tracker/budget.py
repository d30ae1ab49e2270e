"""When a tracker measures: at which steps it is due, and what of a run's time it may take."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from geomfast.measures.model.options import real, whole

#: Measurements that tell what the next one costs, and steps that tell the pace.
REMEMBERED, PACES = 4, 64
#: Steps between two doublings of the step, for ``every="log"``.
PER_DOUBLING = 4
#: By how much a share is larger that is said to pay for everything, as times differ.
_SAFETY = 1.2


def check_every(every: str | int) -> None:
    """Raises ValueError for what is neither "log" nor a whole number of steps."""
    if every == "log":
        return
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise ValueError(f'every must be "log" or a number of steps, 1 or more, not {every!r}')


def due(step: int, every: str | int) -> bool:
    """Whether a measurement is due after so many optimiser steps.

    Args:
        step: 0 for the untrained network, which always is.
        every: ``"log"`` for 0, 1, 2, ... 8, 10, 11, 13, 16, 19, ...: the powers of 2 and three
            steps between them, the same ones wherever a run is taken up again; or every so many.
    """
    if isinstance(every, int):
        return step % every == 0
    return step == 0 or _on_grid(round(PER_DOUBLING * math.log2(step))) == step


def due_between(first: int, last: int, every: str | int) -> int:
    """How many measurements are due from one step to another, both included."""
    if isinstance(every, int):
        return last // every - (first - 1) // every
    end = math.ceil(PER_DOUBLING * math.log2(max(last, 1))) + 1
    grid = {0, *(_on_grid(i) for i in range(end))}
    return sum(first <= step <= last for step in grid)


def _on_grid(index: int) -> int:
    return round(2 ** (index / PER_DOUBLING))


class Budget:
    """The time a tracker may take of a run, counted from when it is made.

    Where the length of the run is known, its time is projected from the pace so far and what may be
    spent is spread over all that is due, so that early steps, where there is most to see, get their
    share at once; a run that then ends early or gets much faster has spent more than it should.
    Where it is not, a measurement waits until the time that has passed has earned it.

    Either way it is expected to cost what the most expensive of the last few did, as what else runs
    on a machine makes them differ; the first, of which nothing is known, is always allowed.

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
        self._costs: deque[float] = deque(maxlen=REMEMBERED)
        self._measuring, self._measurements = 0.0, 0
        self._credit = 0.0
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
        """What has been spent, as a share of the rest: 0.05 for a run that took 5% longer."""
        rest = self.training_seconds
        return self.spent / rest if rest > 0 else 0.0

    @property
    def cost(self) -> float:
        """Seconds of a measurement, on average; 0 before the first."""
        return self._measuring / max(self._measurements, 1)

    @contextmanager
    def spending(self, *, measuring: bool = False) -> Iterator[None]:
        """Counts the time inside; of a measurement also as what the next one is expected to cost.

        Args:
            measuring: whether it is one.
        """
        self._since = self._clock()
        try:
            yield
        finally:
            cost = self._clock() - self._since
            self._since = None
            self._spent += cost
            if measuring:
                self._costs.append(cost)
                self._measuring += cost
                self._measurements += 1

    def record_step(self, step: int) -> None:
        """Notes that the run has come to a step, from which its pace is known."""
        now = step, self.training_seconds
        if self._before is not None and step > self._before[0]:
            if self._paces is None:  # the first step also compiles, allocates and fills caches
                self._paces = deque(maxlen=PACES)
            else:
                at, rest = self._before
                self._paces.append((now[1] - rest) / (step - at))
        self._before = now

    def should_measure(self, step: int, every: str | int) -> bool:
        """Whether a measurement that is due may be taken.

        Args:
            step: that the run has come to.
            every: as in :func:`due`.
        """
        if self.share is None or not self._costs:
            return True
        if self.total is None or step > self.total:
            return self.can_afford_now()
        whole = self.projected(step)
        if whole is None:
            return self.can_afford_now()
        measurements = max(0.0, self.share * whole - self.spent) / max(*self._costs, 1e-9)
        self._credit += min(1.0, measurements / due_between(step, self.total, every))
        if measurements < 1.0 or self._credit < 1.0 - 1e-9:
            return False
        self._credit -= 1.0
        return True

    def projected(self, step: int) -> float | None:
        """Seconds that the whole run takes without the tracker; None where that is not known.

        Args:
            step: that the run has come to.
        """
        if self.total is None or not self._paces:
            return None
        # Of the faster ones, for what makes steps slow passes.
        seconds = sorted(self._paces)[len(self._paces) // 4]
        return self.training_seconds + seconds * max(0, self.total - step)

    def required_share(self, more: int, whole: float) -> float:
        """The share that would pay for more measurements, with a margin, to two digits.

        Args:
            more: how many.
            whole: seconds that the whole run takes without the tracker.
        """
        share = _SAFETY * (self.spent + more * max(self._costs, default=0.0)) / max(whole, 1e-9)
        unit = 10.0 ** (math.floor(math.log10(share)) - 1) if share > 0 else 1.0
        return float(f"{math.ceil(share / unit) * unit:.2g}")

    def can_afford_now(self) -> bool:
        """Whether the time that has passed pays for one more measurement."""
        if self.share is None or not self._costs:
            return True
        return self.spent + max(self._costs) <= self.share * self.training_seconds
