"""Plan of a population: its settings, points and groups. Does not import torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from geomfast.measures import measures, needing, spec_of
from geomfast.measures.spec import BEHAVIOUR, OF_ACTIVATIONS
from geomfast.population.points import parsed
from geomfast.population.tasks import TASKS, PopulationTask, Variant
from geomfast.population.test_sets import TestSet
from geomfast.runs.errors import PlanError
from geomfast.runs.settings_file import plain
from geomfast.testbed.models.scales import Scale, scale_facts
from geomfast.testbed.training.schedule import checkpoint_steps
from geomfast.testbed.training.settings import TrainSettings

#: Width of an attention head; a model that is narrower has one head.
_HEAD = 16
#: Peak learning rate of a width of 32; a wider model takes smaller steps.
_RATE = 3e-3

#: What members are measured by beside their behaviour, where nothing else is asked for.
MEASURES = ("rankme",)


@dataclass(frozen=True)
class PopulationSettings:
    """Settings that all members of a point share; see ``geomfast population --help`` for each.

    ``train_length`` and ``test_lengths`` are 0 and empty for a grammar task, and ``mixture`` and
    ``embedded`` mean nothing for the others.
    """

    task: str
    train_length: int
    test_lengths: tuple[int, ...]
    steps: int
    batch_size: int
    learning_rate: float | None
    samples: int
    checkpoints: int
    measures: tuple[str, ...] = MEASURES
    mixture: float = 0.0
    embedded: float = 0.5
    weight_decay: float = 0.01
    positions: str = "learned"

    @property
    def taken(self) -> tuple[str, ...]:
        """All that every checkpoint is measured by."""
        return (BEHAVIOUR, *self.measures)

    @property
    def of_task(self) -> PopulationTask:
        """The task itself."""
        return TASKS[self.task]

    @property
    def variant(self) -> Variant:
        """What the task takes from the settings."""
        return Variant(
            self.train_length,
            tuple(sorted({self.train_length, *self.test_lengths} - {0})),
            self.mixture,
            self.embedded,
            self.batch_size,
            self.samples,
        )

    @property
    def test_sets(self) -> list[TestSet]:
        """What members are tested on."""
        return self.of_task.test_sets(self.variant)

    @property
    def outcomes(self) -> int:
        """Number of outcomes that are recorded of every member."""
        return sum(len(one.outcomes) for one in self.test_sets)


#: What folders from before there was a choice have.
BEFORE: dict[str, Any] = {
    "measures": list(MEASURES),
    "mixture": 0.0,
    "embedded": 0.5,
    "weight_decay": 0.01,
    "positions": "learned",
}


def at_point(settings: PopulationSettings, point: str) -> PopulationSettings:
    """The settings of a point of the axis, which has some of its own.

    Raises:
        PlanError: it is no name of a point.
    """
    return replace(settings, **parsed(point)[1])


def check_measures(names: Sequence[str]) -> None:
    """Refuse measures that members cannot be measured by together.

    Raises:
        PlanError: names the first of them, and what there is.
    """
    shown = needing(names, *OF_ACTIVATIONS)
    if others := [name for name in names if name not in shown]:
        there = ", ".join(needing(measures(), *OF_ACTIVATIONS))
        raise PlanError(
            f"--measures {others[0]}: members go through a pass together, in which only "
            f"activations are measured; there are: {there}"
        )


def check(settings: PopulationSettings) -> None:
    """Refuse settings that no member can be trained with.

    Raises:
        PlanError: says which, and what is possible.
    """
    check_measures(settings.measures)
    try:
        settings.of_task.check(settings.variant)
    except ValueError as error:
        raise PlanError(str(error)) from error


def scale_of(settings: PopulationSettings, point: str) -> Scale:
    """The scale of a point such as ``2x32`` or ``2x64-mixture0.1``: layers and width.

    Args:
        settings: those of the point.
        point: its name, which the scale has.

    Raises:
        PlanError: it is no name of a point.
    """
    name, own = parsed(point)
    settings = replace(settings, **own)
    layers, width = map(int, name.split("x"))
    heads = max(1, width // _HEAD)
    if width > _HEAD and width % _HEAD:
        raise PlanError(f"scale {name}: a width above {_HEAD} must be a multiple of {_HEAD}")
    rate = settings.learning_rate or _RATE * min(1.0, (32 / width) ** 0.5)
    sizes = settings.of_task.table_sizes(settings.variant)
    try:
        return Scale(point, layers, width, heads, rate, *sizes, positions=settings.positions)
    except ValueError as error:
        raise PlanError(f"scale {point}: {error}") from error


def train_settings(settings: PopulationSettings) -> TrainSettings:
    """The part of a point's settings that training needs."""
    return TrainSettings(
        settings.steps,
        settings.batch_size,
        settings.learning_rate,
        warmup=min(100, max(1, settings.steps // 10)),
        weight_decay=settings.weight_decay,
    )


def recipe(settings: PopulationSettings, point: str) -> dict[str, Any]:
    """Architecture and training of a point, with defaults, so that a changed default shows."""
    own = parsed(point)[1]
    settings = replace(settings, **own)
    scale = scale_of(settings, point)
    facts = scale_facts(scale) | asdict(train_settings(settings)) | own
    return plain(facts | {"parameters": scale.parameters, "learning_rate": scale.learning_rate})


def schedule(settings: PopulationSettings) -> list[int]:
    """The steps at which every member is measured."""
    dense = min(4, settings.steps)
    return checkpoint_steps(
        settings.steps, dense_until=dense, dense_every=dense, count=settings.checkpoints
    )


def run_name(settings: PopulationSettings, point: str, seed: int) -> str:
    """A member's name in the records."""
    return f"{settings.task}-{point}-seed{seed}"


def measure_settings(settings: PopulationSettings, measure: str) -> dict[str, Any]:
    """The settings stored, hashed, with every value of a measure."""
    found = {"measure": measure, "samples": settings.samples}
    if measure == BEHAVIOUR:
        return found | {"decoding": "teacher-forced argmax", "loss": "nats per answer token"}
    return plain(found | {"position": "first_answer"} | spec_of(measure).defaults)


def diagnostic_settings(settings: PopulationSettings) -> dict[str, dict[str, Any]]:
    """Hash and description of the fixed samples of every outcome."""
    return {
        one.data(outcome): outcome.description
        for one in settings.test_sets
        for outcome in one.outcomes
    }
