"""Messages about a tracker's budget: when measurements become rarer, and at the end."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from geomfast.tracker.budget import Budget, Group
from geomfast.tracker.cadence import Cadence
from geomfast.tracker.schedule import due_between


def wide(share: float | None) -> str | None:
    """Message about a budget that may have been meant as a percentage; None for others."""
    if share is None or share <= 1.0:
        return None
    return (
        f"max_overhead = {share:g} lets measuring take {share:g} times as long as training: it is "
        f"a share, and {share:g}% is max_overhead={share / 100:g}"
    )


def thinned(
    budget: Budget, step: int, every: str | int, counts: Cadence, groups: Sequence[Group]
) -> str | None:
    """Which measures are left out of steps that are due, their cost, and what would pay for all.

    Args:
        budget: which has a bound.
        step: that is due.
        every: as in :func:`geomfast.tracker.schedule.due`.
        counts: of the steps so far, this one among those due.
        groups: that are left out of it.

    Returns:
        None while the run's length is given but its pace is not yet known.
    """
    share = budget.share or 0.0
    which = ", ".join(f"{group} ({budget.cost(group):.2g} s each)" for group in groups)
    cost = sum(map(budget.cost, groups))
    if len(groups) == len(counts.measured):
        cost = budget.cost()
        which = f"any measure: a measurement of all takes {cost:.2g} s"
    begin = f"from step {step} on the budget does not pay at every due step for {which}"
    if budget.total is None:
        return (
            f"{begin}, which max_overhead = {share:g} earns in {cost / share:.2g} s of training; "
            "with total_steps they are spread over the whole run, fewer samples cost less"
        )
    whole = budget.projected(step)
    if whole is None:
        return None
    left = due_between(step + 1, budget.total, every)
    of = counts.due + left
    each = [min(counts.measured[group] + budget.planned(group), of) for group in groups]
    paid = ", ".join(map(str, each if len(set(each)) > 1 else each[:1]))
    more = {group: left + lacking for group, lacking in counts.lacking.items()}
    more |= {group: left for group in counts.measured if group not in more}
    return (
        f"{begin}: max_overhead = {share:g} of a run of about {whole:.2g} s pays for {paid} of "
        f"{of}; {_remedy(budget, more, whole)}, fewer samples cost less"
    )


def summary(budget: Budget, counts: Cadence, last: int) -> str:
    """Message with the share of due measurements made, their cost, and the cost of all of them.

    Args:
        budget: after the last step.
        counts: of this tracker's steps.
        last: the last step.
    """
    measured = max(counts.measured.values(), default=0)
    each = f", {budget.cost():.2g} s each" if measured else ""
    said = f"measured {measured} of {counts.due} due{each}"
    thinned = {group: n for group, n in counts.measured.items() if n < measured}
    if thinned:
        said += "; " + ", ".join(
            f"{group} {n} of {counts.due}, {budget.cost(group):.2g} s each"
            for group, n in thinned.items()
        )
    bound = "" if budget.share is None else f" of {_percent(budget.share)} allowed"
    said += f"; overhead {_percent(budget.overhead)}{bound}"
    if budget.share is None or not counts.lacking or not budget.cost():
        return said
    return f"{said}; {_remedy(budget, counts.lacking, budget.training_seconds, last)}"


def following(out: Path) -> str:
    """The command to go on with, for a folder that has records."""
    return f". Next: geomfast report {shlex.quote(str(out))}"


def unrecorded(names: Sequence[str], every: str | int) -> str:
    """That numbers of the loop's own were given, but never where a step was measured."""
    return (
        f"{', '.join(names)}: given at no step that was measured, so not recorded; give such "
        f"numbers at every step, or where geomfast.tracker.schedule.due(step, {every!r}) says so"
    )


def _remedy(budget: Budget, more: dict[Group, int], whole: float, last: int | None = None) -> str:
    share = budget.required_share(more, whole)
    if share <= 1.0:
        also = "" if budget.total is not None else f"total_steps={last} and "
        return f"{also}max_overhead={share:g} would pay for nearly all"
    return f"max_overhead=None would measure all, in about {share:.2g} times the time of training"


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%" if share >= 0.1 else f"{100 * share:.2g}%"
