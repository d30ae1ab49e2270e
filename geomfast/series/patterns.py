"""Patterns of sources: many models by one text, and what their names say of scale and seed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from geomfast.runs.errors import PlanError

#: How names are read where nothing else is said: *pythia-70m-seed3*.
USUAL_NAMES = "{scale}-seed{seed}"
#: Most models of one command.
MOST = 1000
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_LARGEST_SEED = 2**63 - 1


class Named(NamedTuple):
    """The scale and the seed of a model."""

    scale: str
    seed: int


def expanded(source: str) -> list[str]:
    """The sources that a pattern stands for, as a shell expands braces.

    Args:
        source: for instance ``EleutherAI/pythia-{14m,70m}-seed{1..9}``; itself where it has none.

    Raises:
        PlanError: a brace is not closed, a range descends, a source is there twice, or there are
            more than :data:`MOST`.
    """
    found = [""]
    end = 0
    for brace in _BRACES.finditer(source):
        between, values = source[end : brace.start()], _values(brace[1], source)
        if len(found) * len(values) > MOST:
            raise PlanError(f"{source}: more than {MOST:,} models")
        found = [known + between + value for known in found for value in values]
        end = brace.end()
    found = [known + source[end:] for known in found]
    if len(found) > 1 and re.search(r"[{}]", found[0]):
        raise PlanError(f"{source}: braces that are not closed, or inside others")
    if len(set(found)) < len(found):
        raise PlanError(f"{source}: a model is there twice")
    return found


def _values(inside: str, source: str) -> list[str]:
    ends = _RANGE.fullmatch(inside)
    if ends is None:
        values = [value.strip() for value in inside.split(",")]
        if not all(values):
            raise PlanError(
                f"{source}: {{{inside}}} is neither a list nor a range such as {{1..9}}"
            )
        return values
    first, last = int(ends[1]), int(ends[2])
    if not first <= last < first + MOST:
        raise PlanError(f"{source}: {{{inside}}} ascends over {MOST:,} at most")
    width = len(ends[1]) if ends[1].startswith("0") else 0
    return [str(number).zfill(width) for number in range(first, last + 1)]


def compiled(
    pattern: str, option: str, required: Sequence[str], optional: Sequence[str] = ()
) -> re.Pattern[str]:
    """A pattern of names as a regular expression with a group for each field.

    Args:
        pattern: fields in braces, of which ``{scale}`` stands for any text and others for digits;
            all else is as it is.
        option: that it is from, for messages.
        required: fields that it must have.
        optional: those that it may have.

    Raises:
        PlanError: a field is missing, is there twice, or is none of these.
    """
    parts = re.split(r"(\{[^{}]*\})", pattern)
    fields = [part[1:-1] for part in parts[1::2]]
    twice = len(set(fields)) < len(fields)
    if twice or not set(required) <= set(fields) <= {*required, *optional}:
        told = " and ".join(f"{{{name}}}" for name in required)
        also = " and ".join(f"{{{name}}}" for name in optional)
        may = f"perhaps {also}" if also else ""
        raise PlanError(f"{option} {pattern!r}: {', '.join(filter(None, (told, may)))}, each once")
    kinds = {name: rf"(?P<{name}>\d+)" for name in fields} | {"scale": r"(?P<scale>.+?)"}
    return re.compile(
        "".join(kinds[p[1:-1]] if i % 2 else re.escape(p) for i, p in enumerate(parts))
    )


def named(names: Sequence[str], pattern: str = USUAL_NAMES) -> list[Named]:
    """What models' names say.

    Args:
        names: last part of each source.
        pattern: with ``{scale}`` and ``{seed}``, which stands for digits; all else is as it is.

    Raises:
        PlanError: the pattern lacks one of them, a name is not like it, or two models have one
            scale and seed.
    """
    wanted = compiled(pattern, "--names", ("scale", "seed"))
    found: dict[Named, str] = {}
    for name in names:
        match = wanted.fullmatch(name)
        if match is None:
            raise PlanError(
                f"{name} is not named like {pattern}, from which scale and seed are read: say how "
                "with --names"
            )
        one = Named(match["scale"], int(match["seed"]))
        if one.seed > _LARGEST_SEED:
            raise PlanError(f"{name}: its seed has more than 63 bits")
        if one in found:
            raise PlanError(f"{found[one]} and {name} are both scale {one.scale}, seed {one.seed}")
        found[one] = name
    return list(found)
