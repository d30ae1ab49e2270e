"""What a tracker says of its budget: when it begins to thin, and at the end."""

from __future__ import annotations

from geomfast.tracker.budget import Budget, due_between


def wide(share: float | None) -> str | None:
    """What is said of a budget that may have been meant as a percentage; None of any other."""
    if share is None or share <= 1.0:
        return None
    return (
        f"max_overhead = {share:g} lets measuring take {share:g} times as long as training: it is "
        f"a share, and {share:g}% is max_overhead={share / 100:g}"
    )


def thinned(budget: Budget, step: int, every: str | int, due: int, measured: int) -> str | None:
    """That less is measured than is due, what a measurement costs, and what would pay for all.

    Args:
        budget: which has a bound.
        step: that is due and not measured.
        every: as in :func:`geomfast.tracker.budget.due`.
        due, measured: how many steps have been, this one among those due.

    Returns:
        None where the run's length is given but its pace not yet known: better said later.
    """
    share, cost = budget.share or 0.0, budget.cost
    begin = f"from step {step} on less is measured than is due: a measurement takes {cost:.2g} s"
    if budget.total is None:
        return (
            f"{begin}, which max_overhead = {share:g} earns in {cost / share:.2g} s of training; "
            "with total_steps early ones come at once, fewer samples cost less"
        )
    whole = budget.projected(step)
    if whole is None:
        return None
    of = due + due_between(step + 1, budget.total, every)
    paid = measured + int(max(0.0, share * whole - budget.spent) / max(cost, 1e-9))
    return (
        f"{begin}, and max_overhead = {share:g} of a run of about {whole:.2g} s pays for "
        f"{min(paid, of)} of {of}; {_remedy(budget, of - measured, whole)}, fewer samples cost less"
    )


def summary(budget: Budget, due: int, measured: int, last: int) -> str:
    """How much was measured of what was due, at what cost, and what would have paid for all.

    Args:
        budget: after the last step.
        due, measured: numbers of steps.
        last: the last step.
    """
    each = f", {budget.cost:.2g} s each" if measured else ""
    bound = "" if budget.share is None else f" of {_percent(budget.share)} allowed"
    said = f"measured {measured} of {due} due{each}; overhead {_percent(budget.overhead)}{bound}"
    if budget.share is None or measured >= due or not budget.cost:
        return said
    return f"{said}; {_remedy(budget, due - measured, budget.training_seconds, last)}"


def _remedy(budget: Budget, more: int, whole: float, last: int | None = None) -> str:
    enough = budget.required_share(more, whole)
    if enough <= 1.0:
        also = "" if budget.total is not None else f"total_steps={last} and "
        return f"{also}max_overhead={enough:g} would pay for nearly all"
    return f"max_overhead=None would measure all, in about {enough:.2g} times the time of training"


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%" if share >= 0.1 else f"{100 * share:.2g}%"
