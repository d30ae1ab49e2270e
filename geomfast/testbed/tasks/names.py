"""Names of task-levels, ours and those of others. No torch here."""

from __future__ import annotations

import re

from geomfast.labels import MIXTURE
from geomfast.testbed.tasks import LENGTH_TASKS, TASK_NAMES, TaskLevel

_OURS = {*TASK_NAMES, *(task.name for task in LENGTH_TASKS.values())}
#: How a name ends that says its level.
_WITH_LEVEL = re.compile(r" \(level -?\d+\)$")


def task_level(task: str, level: int) -> str:
    """Name of a task-level, for instance ``MOD-1``; ``mixture`` for all of a run's together.

    What is not ours, as a probe set, knows no levels and is recorded as level 1: its name alone,
    unless another task-level may have that name.  All names differ.
    """
    if (task, level) == MIXTURE:
        return "mixture"
    if task in _OURS:
        return TaskLevel(task, level).name
    # "mixture", "MOD-1" and "A (level 2)" are names of others too.
    ours = task.rpartition("-")[0] in _OURS
    alone = level == 1 and not ours and task != "mixture" and not _WITH_LEVEL.search(task)
    return task if alone else f"{task} (level {level})"
