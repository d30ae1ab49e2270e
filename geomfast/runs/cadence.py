"""At which of a run's checkpoints a measure is taken. No torch here: planning needs it too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from geomfast.measures.spec import BEHAVIOUR

#: Of how many checkpoints a measure is taken; of all where it is not named.
Cadence = Mapping[str, int]


def measurement_steps(steps: Sequence[int], count: int | None) -> list[int]:
    """The checkpoints a measure is taken of, evenly over the list of them.

    Checkpoints lie where there is most to see: close together early, where representations
    collapse, then evenly in the logarithm of the step. Every k-th of them keeps that, and
    measures with the same count share their checkpoints.

    Args:
        steps: of all checkpoints, ascending.
        count: how many to take, 2 or more, the first and the last among them; None for all.
    """
    if count is None or count >= len(steps):
        return list(steps)
    if count < 2:
        raise ValueError(f"a cadence is 2 checkpoints or more, the first and the last; not {count}")
    last = len(steps) - 1
    return [steps[round(i * last / (count - 1))] for i in range(count)]


def merge_cadences(
    before: Cadence, measures_before: Sequence[str], now: Cadence, measures: Sequence[str]
) -> dict[str, int]:
    """The cadence of a sweep that was one and is asked to be another: of each measure the larger.

    A sweep grows only, in its checkpoints as in its scales, seeds and measures; one that is asked
    for less has all that it needs.

    Args:
        before, measures_before: of the sweep so far.
        now, measures: asked for.
    """
    asked = [(before, set(measures_before)), (now, set(measures))]
    larger = {}
    for measure in dict.fromkeys((*measures_before, *measures)):
        counts = [cadence.get(measure) for cadence, taken in asked if measure in taken]
        if None not in counts:
            larger[measure] = max(count for count in counts if count is not None)
    return larger


def wanted(steps: Sequence[int], measures: Iterable[str], cadence: Cadence) -> dict[int, set[str]]:
    """Measures to take at each checkpoint, by step; always includes behaviour.

    Args:
        steps: of all checkpoints, ascending.
        measures: asked for.
        cadence: at how many checkpoints each is taken; at all where it is not named.
    """
    named = {step: {BEHAVIOUR} for step in steps}
    for name in measures:
        for step in measurement_steps(steps, cadence.get(name)):
            named[step].add(name)
    return named


def lacking(
    wanted: Mapping[int, set[str]], recorded: Mapping[int, set[str]]
) -> dict[int, set[str]]:
    """Wanted measures that are not recorded, by step; steps with nothing missing are left out."""
    left = {step: names - recorded.get(step, set()) for step, names in wanted.items()}
    return {step: names for step, names in left.items() if names}
