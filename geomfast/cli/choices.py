"""Comma-separated option values that are checked against what exists."""

from __future__ import annotations

from collections.abc import Iterable

import click


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
        seeds: list[int] = []
        for part in str(value).split(","):
            first, dots, last = part.strip().partition("..")
            try:
                numbers = range(int(first), int(last if dots else first) + 1)
            except ValueError:
                self.fail(f"{part.strip()!r} is not a seed or a range like 0..9", param, ctx)
            if not numbers or numbers[0] < 0:
                self.fail(f"{part.strip()!r}: seeds are 0 or more, ranges ascend", param, ctx)
            seeds += [seed for seed in numbers if seed not in seeds]
        return tuple(seeds)
