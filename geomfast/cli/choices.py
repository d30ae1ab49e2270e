"""Option values that hold several things, checked against what exists."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from typing import Any

import click
from click.shell_completion import CompletionItem

from geomfast.population.points import AXES, read_axis
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
    """A number in a range, as click's own, which lets NaN through and infinity in.

    Args:
        word: that may stand for a number.
        least, more: arguments of :class:`click.FloatRange`.
    """

    def __init__(self, least: float | None = None, *, word: str = "", **more: Any) -> None:
        super().__init__(least, **more)
        self.word = word

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str | None:
        """FLOAT|auto where a word may stand for a number."""
        return f"FLOAT|{self.word}" if self.word else None

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """The word."""
        return [CompletionItem(self.word)] if self.word.startswith(incomplete or "-") else []

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if self.word and value == self.word:
            return value
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


class Several(click.ParamType):
    """Values that are given as one text.

    Attributes:
        metavar: what stands for the text in the help.
        known: names that a shell offers, each once.
    """

    name = "values"
    metavar: str
    known: Iterable[str] = ()

    def parse(self, text: str) -> Any:
        """The values.

        Raises:
            ValueError: for the user to read.
        """
        raise NotImplementedError

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return self.metavar

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        return completions(self.known, incomplete)


class ListOf(Several):
    """Names separated by commas, each one of those that exist; ``all``, or the word of another
    group, for those of the group.

    Args:
        what: singular noun for messages, for instance ``task``.
        existing: the names there are, in order.
        groups: words that stand for several of them.
    """

    def __init__(
        self,
        what: str,
        existing: Iterable[str],
        groups: Mapping[str, tuple[str, ...]] | None = None,
    ) -> None:
        self.what, self.metavar = what, f"{what.upper()},..."
        self.existing = self.known = tuple(existing)
        self.groups = {"all": self.existing, **(groups or {})}

    def parse(self, text: str) -> tuple[Any, ...]:
        spelled: dict[str, tuple[str, ...]] = {name.lower(): (name,) for name in self.existing}
        spelled |= self.groups
        chosen: list[str] = []
        for part in text.split(","):
            names = spelled.get(part.strip().lower())
            if names is None:
                there = ", ".join([*self.existing, *self.groups])
                raise ValueError(f"no {self.what} {part.strip()!r}; there are: {there}")
            chosen += names
        # In the tables' order and once each, so that spelling does not make another sweep.
        return tuple(name for name in self.existing if name in chosen)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        # All of them has no place beside some.
        groups = [word for word in self.groups if word != "all" or "," not in incomplete]
        return completions([*self.existing, *groups], incomplete)


class Levels(ListOf):
    """Difficulty levels, for instance ``1,3``."""

    def __init__(self, existing: Iterable[int]) -> None:
        super().__init__("level", map(str, existing))

    def parse(self, text: str) -> tuple[int, ...]:
        return tuple(map(int, super().parse(text)))


class Seeds(Several):
    """Seeds: ``0``, ``0,1,5`` or a range with both ends, ``0..249``."""

    metavar = "SEED,...|A..B"

    def parse(self, text: str) -> tuple[int, ...]:
        seeds: dict[int, None] = {}
        for part in map(str.strip, text.split(",")):
            first, dots, last = part.partition("..")
            try:
                numbers = range(int(first), int(last if dots else first) + 1)
            except ValueError:
                raise ValueError(f"{part!r} is not a seed or a range like 0..9") from None
            if not numbers or numbers[0] < 0:
                raise ValueError(f"{part!r}: seeds are 0 or more, ranges ascend")
            if numbers[-1] > LARGEST_SEED:
                raise ValueError(f"{part!r}: seeds are at most {LARGEST_SEED}")
            if len(numbers) + len(seeds) > MOST_SEEDS:
                raise ValueError(f"{part!r}: more than {MOST_SEEDS:,} seeds")
            seeds |= dict.fromkeys(numbers)
        return tuple(seeds)


class Numbers(Several):
    """Positive numbers, ascending and once each: ``16,24``.

    Args:
        what: singular noun for messages, for instance ``length``.
        example: how several are given.
        kind: int or float.
    """

    def __init__(self, what: str, example: str, kind: type) -> None:
        self.what, self.example, self.kind = what, example, kind
        self.metavar = f"{what.upper().replace(' ', '-')},..."

    def parse(self, text: str) -> tuple[Any, ...]:
        found = set()
        for part in map(str.strip, text.split(",")):
            try:
                number = self.kind(part)
            except ValueError:
                number = math.nan
            if not 0 < number < math.inf:
                a = "a whole number from 1" if self.kind is int else "a positive number"
                raise ValueError(f"{part!r} is not a {self.what}, {a}: give {self.example}")
            found.add(number)
        return tuple(sorted(found))


class ScaleNames(Several):
    """Scales as layers and width, in the order given: ``1x16,2x32``."""

    metavar = "LAYERSxWIDTH,..."

    def parse(self, text: str) -> tuple[str, ...]:
        names = []
        for part in text.lower().split(","):
            layers, _, width = part.strip().partition("x")
            if not all(word.isdecimal() and int(word) >= 1 for word in (layers, width)):
                raise ValueError(f"{part.strip()!r} is not LAYERSxWIDTH, for instance 2x32")
            # Once each, and spelled alike, so that spelling does not make another scale.
            names.append(f"{int(layers)}x{int(width)}")
        return tuple(dict.fromkeys(names))


class AxisOf(Several):
    """An axis of a population with its values, ``mixture=0,0.01``; :func:`read_axis` parses it."""

    metavar = "AXIS=VALUE,..."
    known = tuple(f"{name}=" for name in AXES)

    def parse(self, text: str) -> tuple[str, list[Any]]:
        """The axis and its values."""
        return read_axis(text)


class CadenceOf(Several):
    """Numbers of checkpoints by measure: ``llc=8,hessian_top=all``.

    Args:
        measures: the names there are.
    """

    metavar = "MEASURE=N|all,..."

    def __init__(self, measures: Iterable[str]) -> None:
        self.measures = tuple(measures)
        self.known = [f"{name}=" for name in self.measures]

    def parse(self, text: str) -> dict[str, int | None]:
        found: dict[str, int | None] = {}
        for part in text.split(","):
            measure, _, count = (word.strip().lower() for word in part.partition("="))
            if measure not in self.measures:
                there = ", ".join(self.measures)
                raise ValueError(f"no measure {measure!r}; there are: {there}")
            if count != "all" and not (count.isdecimal() and int(count) >= 2):
                raise ValueError(f"{part.strip()!r} is not MEASURE=N, N from 2, or =all")
            found[measure] = None if count == "all" else int(count)
        return found


class Ladder(Several):
    """Positive numbers: ``1e-5``, ``1e-5,3e-5``, or a range with both ends, ``1e-6..1e-4``.

    Args:
        digits: leading digits of the numbers within a range, for instance (1, 3).
    """

    metavar = "VALUE,...|A..B"

    def __init__(self, digits: tuple[int, ...]) -> None:
        self.digits = digits

    def parse(self, text: str) -> tuple[float, ...]:
        found: set[float] = set()
        for part in map(str.strip, text.split(",")):
            first, dots, last = part.partition("..")
            try:
                low, high = float(first), float(last if dots else first)
            except ValueError:
                raise ValueError(f"{part!r} is no number, nor a range like 1e-6..1e-4") from None
            if not 0.0 < low <= high < math.inf:
                raise ValueError(f"{part!r}: values are positive, ranges ascend")
            found |= {low, high}
            decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
            steps = [float(f"{digit}e{decade}") for decade in decades for digit in self.digits]
            found |= {step for step in steps if low < step < high}
        return tuple(sorted(found))


class OneTaskLevel(Several):
    """A task-level as ``MOD:1``, or ``mixture``: task and level as in the records."""

    metavar = "TASK:LEVEL|mixture"
    # With a hyphen, which is accepted too: shells take a colon for the end of a word.
    known = ("mixture", *(f"{task}-{level}" for task in TASK_NAMES for level in LEVELS))

    def parse(self, text: str) -> tuple[str, int]:
        if text.lower() == "mixture":
            return MIXTURE
        task, _, level = text.replace("-", ":").partition(":")
        if task.upper() not in TASK_NAMES or level not in map(str, LEVELS):
            there = ", ".join(TASK_NAMES)
            raise ValueError(f"{text!r} is not TASK:LEVEL; tasks: {there}; levels 1 to 3")
        return task.upper(), int(level)


class Words(Several):
    """Words separated by commas, in the order given and once each.

    Args:
        what: singular noun for messages, for instance ``revision``.
        known: some words that a shell can offer, beside files.
    """

    def __init__(self, what: str, known: Iterable[str] = ()) -> None:
        self.what, self.known = what, tuple(known)
        self.metavar = f"{what.upper().replace(' ', '-')},..."

    def parse(self, text: str) -> tuple[str, ...]:
        words = [word.strip() for word in text.split(",")] if text else []
        if not all(words):
            raise ValueError(f"an empty {self.what} in {text!r}")
        return tuple(dict.fromkeys(words))

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Known words, or files where none of them fits."""
        files = [CompletionItem(incomplete, type="file")] if self.known else []
        return completions(self.known, incomplete) or files
