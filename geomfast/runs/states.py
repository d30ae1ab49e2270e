"""When the state of a run is written: often enough for a kill to cost little, no oftener.

A state is weights and both moments of AdamW; writing one at every checkpoint took a quarter of a
sweep's time on a GPU.  No torch here: planning needs it too.
"""

from __future__ import annotations

import time
from collections.abc import Callable

#: Seconds between states at least, where nothing else is asked for: what a kill costs, about.
STATE_EVERY = 60.0
#: Latest states of a run that it can be resumed from.
KEPT_STATES = 2


class States:
    """Says whether a state is due; the first is due this long after the run was begun or resumed.

    Args:
        every: seconds between states at least; 0 for one at every checkpoint.
        clock: seconds.
    """

    def __init__(self, every: float, clock: Callable[[], float] = time.monotonic):
        self._every, self._clock = every, clock
        self._last = clock()

    def due(self) -> bool:
        """Whether enough seconds have passed since the last state."""
        return self._clock() - self._last >= self._every

    def written(self) -> None:
        """One has just been written, however long that took."""
        self._last = self._clock()


def states_written(checkpoints: int, seconds: float, every: float) -> int:
    """Number of states that a run writes, including the one at its end.

    Args:
        checkpoints: that it passes.
        seconds: it takes.
        every: see :class:`States`.
    """
    if every <= 0:
        return checkpoints
    return min(checkpoints, 1 + int(seconds / every))
