"""The eight algorithmic tasks of arXiv:2602.15997 at three levels each, and tasks of length
generalisation and of grammatical generalisation (arXiv:2502.17356). No torch here."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterable
from typing import NamedTuple

from geomfast.testbed.tasks.count import COUNT
from geomfast.testbed.tasks.grammar import GrammarTask
from geomfast.testbed.tasks.lengths import LengthTask
from geomfast.testbed.tasks.question_formation import QUESTION_FORMATION
from geomfast.testbed.tasks.reverse_add import REVERSE_ADD
from geomfast.testbed.tasks.task import Examples, Task, examples
from geomfast.testbed.tasks.tense_inflection import TENSE_INFLECTION
from geomfast.testbed.tasks.vocabulary import ADDED, PAPER_TASKS, TOKENS, VOCABULARY_SIZE

#: Tasks of length generalisation, by their names on the command line.
LENGTH_TASKS: dict[str, LengthTask] = {task.option: task for task in (COUNT, REVERSE_ADD)}

#: Tasks of grammatical generalisation, likewise.
GRAMMAR_TASKS: dict[str, GrammarTask] = {
    task.option: task for task in (QUESTION_FORMATION, TENSE_INFLECTION)
}


class TaskError(Exception):
    """A task that cannot stand beside the others; the message says why."""


def registered(tasks: Iterable[Task]) -> dict[str, Task]:
    """Tasks by name: the paper's eight in its order, then others by the ids of their tokens.

    Raises:
        TaskError: two of one name or with one token, or ids that other tokens have.
    """
    found: dict[str, Task] = {}
    owners = {id_: "the vocabulary of the eight" for id_ in range(VOCABULARY_SIZE)}
    names = dict.fromkeys(TOKENS, "the vocabulary of the eight")
    others = {task.name for task in LENGTH_TASKS.values()}
    for task in tasks:
        if not re.fullmatch(r"[A-Z][A-Z0-9]*", task.name):
            raise TaskError(f"a task's name is of capitals and digits, not {task.name!r}")
        if task.name in found or task.name in others:
            raise TaskError(f"there are two tasks of the name {task.name}")
        if task.name not in PAPER_TASKS and f"[{task.name}]" not in task.tokens:
            raise TaskError(f"task {task.name} has no token [{task.name}] among its tokens")
        for token, id_ in task.tokens.items():
            if id_ in owners or id_ < 0 or token in names:
                owner = owners.get(id_) or names.get(token) or "nothing"
                raise TaskError(f"token {token} of task {task.name} has id {id_}: of {owner}")
            owners[id_] = names[token] = f"task {task.name}"
        found[task.name] = task
    rest = [name for name in found if name not in PAPER_TASKS]
    order = (*PAPER_TASKS, *sorted(rest, key=lambda name: min(found[name].tokens.values())))
    return {name: found[name] for name in order if name in found}


def _in_this_folder() -> list[Task]:
    """The ``TASK`` of every module here that has one."""
    modules = (
        importlib.import_module(f"{__name__}.{module.name}")
        for module in pkgutil.iter_modules(__path__)
        if module.name != "names"  # which is made of these
    )
    return [module.TASK for module in modules if isinstance(getattr(module, "TASK", None), Task)]


TASKS: dict[str, Task] = registered(_in_this_folder())
TASK_NAMES = tuple(TASKS)
ADDED.update((id_, token) for task in TASKS.values() for token, id_ in task.tokens.items())
LEVELS = (1, 2, 3)

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
    "GRAMMAR_TASKS",
    "LENGTH_TASKS",
    "LEVELS",
    "PAPER_TASKS",
    "TASKS",
    "TASK_NAMES",
    "Examples",
    "Task",
    "TaskError",
    "TaskLevel",
    "examples",
    "registered",
    "task_levels",
]
