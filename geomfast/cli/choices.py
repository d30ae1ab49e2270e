"""Option values that hold several things, checked against what exists."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from typing import Any

import click
from click.shell_completion import CompletionItem

from geomfast.records import MIXTURE
from geomfast.testbed.tasks import LEVELS, TASK_NAMES

#: No machine has as many cores, and a process that asks for more may not start.
MOST_THREADS = 1024
#: Of one command: no grid has as many, and a list of a billion takes the memory of the machine.
MOST_SEEDS = 100_000
#: Generators are seeded with 32 bits.
LARGEST_SEED = 2**32 - 1


def completions(names: Iterable[str], incomplete: str, joined: str = ",") -> list[CompletionItem]:
    """Completions for the last of several names: all that have not been given before."""
    before, comma, last = incomplete.rpartition(joined)
    taken = before.lower().split(joined)
    return [
        CompletionItem(f"{before}{comma}{name}")
        for name in names
        if name.lower().startswith(last.lower()) and name.lower() not in taken
    ]


class Finite(click.FloatRange):
    """A number in a range, as click's own, which lets NaN through and infinity in."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


class Place(click.Path):
    """A path that is not empty: click takes an empty one, for instance of an unset variable, for
    the current folder.

    Args:
        complete: what a shell offers: "dir" for folders, "file" for files and folders.
        how: arguments of :class:`click.Path`.
    """

    def __init__(self, complete: str = "dir", **how: Any) -> None:
        super().__init__(**how)
        self.complete = complete

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Folders, or files and folders."""
        return [CompletionItem(incomplete, type=self.complete)]

    def convert(
        self,
        value: str | os.PathLike[str],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Any:
        if not os.fspath(value).strip():
            self.fail(f"{os.fspath(value)!r} is no path.", param, ctx)
        return super().convert(value, param, ctx)


class ListOf(click.ParamType):
    """Names separated by commas, each one of those that exist; ``all`` for all of them.

    Args:
        what: singular noun for messages, for instance ``task``.
        existing: the names there are, in order.
    """

    name = "list"

    def __init__(self, what: str, existing: Iterable[str]) -> None:
        self.what = what
        self.existing = tuple(existing)

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return f"{self.what.upper()},..."

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        if str(value).lower() == "all":
            return self.existing
        spelled = {name.lower(): name for name in self.existing}
        chosen = []
        for part in str(value).split(","):
            name = spelled.get(part.strip().lower())
            if name is None:
                there = ", ".join(self.existing)
                self.fail(f"no {self.what} {part.strip()!r}; there are: {there}", param, ctx)
            chosen.append(name)
        # In the tables' order and once each, so that spelling does not make another sweep.
        return tuple(name for name in self.existing if name in chosen)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Names that can come next."""
        return completions([*self.existing, *["all"] * ("," not in incomplete)], incomplete)


class Levels(click.ParamType):
    """Difficulty levels, for instance ``1,3``."""

    name = "levels"

    def __init__(self, existing: Iterable[int]) -> None:
        self.names = ListOf("level", map(str, existing))

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return self.names.get_metavar(param, ctx)

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        return tuple(int(level) for level in self.names.convert(value, param, ctx))

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Levels that can come next."""
        return self.names.shell_complete(ctx, param, incomplete)


class Seeds(click.ParamType):
    """Seeds: ``0``, ``0,1,5`` or a range with both ends, ``0..249``."""

    name = "seeds"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return "SEED,...|A..B"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        seeds: dict[int, None] = {}
        for part in str(value).split(","):
            first, dots, last = part.strip().partition("..")
            try:
                numbers = range(int(first), int(last if dots else first) + 1)
            except ValueError:
                self.fail(f"{part.strip()!r} is not a seed or a range like 0..9", param, ctx)
            if not numbers or numbers[0] < 0:
                self.fail(f"{part.strip()!r}: seeds are 0 or more, ranges ascend", param, ctx)
            if numbers[-1] > LARGEST_SEED:
                self.fail(f"{part.strip()!r}: seeds are at most {LARGEST_SEED}", param, ctx)
            if len(numbers) + len(seeds) > MOST_SEEDS:
                self.fail(f"{part.strip()!r}: more than {MOST_SEEDS:,} seeds", param, ctx)
            seeds |= dict.fromkeys(numbers)
        return tuple(seeds)


class Lengths(click.ParamType):
    """Lengths of examples: ``16,24``."""

    name = "lengths"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return "LENGTH,..."

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in str(value).split(",")]
        for part in parts:
            if not part.isdecimal() or int(part) < 1:
                self.fail(f"{part!r} is not a length, a whole number from 1", param, ctx)
        return tuple(sorted({int(part) for part in parts}))


class ScaleNames(click.ParamType):
    """Scales as layers and width, in the order given: ``1x16,2x32``."""

    name = "scales"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return "LAYERSxWIDTH,..."

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        names = []
        for part in str(value).lower().split(","):
            layers, _, width = part.strip().partition("x")
            if not all(word.isdecimal() and int(word) >= 1 for word in (layers, width)):
                self.fail(f"{part.strip()!r} is not LAYERSxWIDTH, for instance 2x32", param, ctx)
            # Once each, and spelled alike, so that spelling does not make another scale.
            names.append(f"{int(layers)}x{int(width)}")
        return tuple(dict.fromkeys(names))


class CadenceOf(click.ParamType):
    """Numbers of checkpoints by measure: ``llc=8,hessian_top=all``.

    Args:
        measures: the names there are.
    """

    name = "cadence"

    def __init__(self, measures: Iterable[str]) -> None:
        self.measures = tuple(measures)

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return "MEASURE=N|all,..."

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> dict[str, int | None]:
        if isinstance(value, dict):
            return value
        found: dict[str, int | None] = {}
        for part in str(value).split(","):
            measure, _, count = (word.strip().lower() for word in part.partition("="))
            if measure not in self.measures:
                there = ", ".join(self.measures)
                self.fail(f"no measure {measure!r}; there are: {there}", param, ctx)
            if count != "all" and not (count.isdecimal() and int(count) >= 2):
                self.fail(f"{part.strip()!r} is not MEASURE=N, N from 2, or =all", param, ctx)
            found[measure] = None if count == "all" else int(count)
        return found

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Measures that can come next, with what stands before their number."""
        return completions([f"{name}=" for name in self.measures], incomplete)


class Ladder(click.ParamType):
    """Positive numbers: ``1e-5``, ``1e-5,3e-5``, or a range with both ends, ``1e-6..1e-4``.

    Args:
        digits: leading digits of the numbers within a range, for instance (1, 3).
    """

    name = "ladder"

    def __init__(self, digits: tuple[int, ...]) -> None:
        self.digits = digits

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return "VALUE,...|A..B"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        found: set[float] = set()
        for part in str(value).split(","):
            first, dots, last = part.strip().partition("..")
            try:
                low, high = float(first), float(last if dots else first)
            except ValueError:
                self.fail(f"{part.strip()!r} is no number, nor a range like 1e-6..1e-4", param, ctx)
            if not 0.0 < low <= high < math.inf:
                self.fail(f"{part.strip()!r}: values are positive, ranges ascend", param, ctx)
            found |= {low, high}
            decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
            steps = [float(f"{digit}e{decade}") for decade in decades for digit in self.digits]
            found |= {step for step in steps if low < step < high}
        return tuple(sorted(found))


class OneTaskLevel(click.ParamType):
    """A task-level as ``MOD:1``, or ``mixture``: task and level as in the records."""

    name = "task-level"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return "TASK:LEVEL|mixture"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int]:
        if isinstance(value, tuple):
            return value
        if str(value).lower() == "mixture":
            return MIXTURE
        task, _, level = str(value).replace("-", ":").partition(":")
        if task.upper() not in TASK_NAMES or level not in map(str, LEVELS):
            there = ", ".join(TASK_NAMES)
            self.fail(f"{value!r} is not TASK:LEVEL; tasks: {there}; levels 1 to 3", param, ctx)
        return task.upper(), int(level)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Every task-level, and the mixture."""
        # With a hyphen, which is accepted too: shells take a colon for the end of a word.
        names = [f"{task}-{level}" for task in TASK_NAMES for level in LEVELS]
        return completions(["mixture", *names], incomplete)


class Words(click.ParamType):
    """Words separated by commas, in the order given and once each.

    Args:
        what: singular noun for messages, for instance ``revision``.
        known: some words that a shell can offer, beside files.
    """

    name = "words"

    def __init__(self, what: str, known: Iterable[str] = ()) -> None:
        self.what = what
        self.known = tuple(known)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Known words, or files where none of them fits."""
        files = [CompletionItem(incomplete, type="file")] if self.known else []
        return completions(self.known, incomplete) or files

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return f"{self.what.upper().replace(' ', '-')},..."

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        words = [word.strip() for word in str(value).split(",")] if value else []
        if not all(words):
            self.fail(f"an empty {self.what} in {value!r}", param, ctx)
        return tuple(dict.fromkeys(words))
