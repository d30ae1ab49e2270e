"""The eight algorithmic tasks of arXiv:2602.15997 at three levels each, and two tasks of length
generalisation (arXiv:2502.17356). No torch here."""

from __future__ import annotations

from typing import NamedTuple

from geomfast.testbed.tasks import (
    addition,
    compare,
    copy,
    modular,
    multiplication,
    parity,
    reverse,
    sort,
)
from geomfast.testbed.tasks.count import COUNT
from geomfast.testbed.tasks.lengths import LengthTask
from geomfast.testbed.tasks.reverse_add import REVERSE_ADD
from geomfast.testbed.tasks.task import Examples, Task, examples
from geomfast.testbed.tasks.vocabulary import TASK_NAMES

_MODULES = (copy, reverse, sort, parity, compare, addition, multiplication, modular)
TASKS: dict[str, Task] = {module.TASK.name: module.TASK for module in _MODULES}
LEVELS = (1, 2, 3)
#: Tasks of length generalisation, by their names on the command line.
LENGTH_TASKS: dict[str, LengthTask] = {task.option: task for task in (COUNT, REVERSE_ADD)}

#: The stream the diagnostic samples come from; no training stream has this name.
DIAGNOSTIC_STREAM = "diagnostic"


class TaskLevel(NamedTuple):
    """A task at one difficulty."""

    task: str
    level: int

    @property
    def name(self) -> str:
        """For instance MOD-1."""
        return f"{self.task}-{self.level}"

    @property
    def chance(self) -> float:
        """Exact-match rate of the best answer that ignores the input."""
        return TASKS[self.task].chance(self.level)

    def examples(self, stream: str, start: int, count: int) -> Examples:
        """Examples ``start`` ... ``start + count`` of a stream; see :func:`examples`."""
        return examples(TASKS[self.task], self.level, stream, start, count)


def task_levels(tasks: tuple[str, ...], levels: tuple[int, ...]) -> list[TaskLevel]:
    """Every task at every level, in the tables' order."""
    return [TaskLevel(task, level) for task in tasks for level in levels]


__all__ = [
    "DIAGNOSTIC_STREAM",
    "LENGTH_TASKS",
    "LEVELS",
    "TASKS",
    "TASK_NAMES",
    "Examples",
    "Task",
    "TaskLevel",
    "examples",
    "task_levels",
]
