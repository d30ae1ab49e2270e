"""Plan of a population: its settings, scales and groups. Does not import torch."""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict, dataclass
from typing import Any

from geomfast.measures import Need, measures, needing, spec_of
from geomfast.measures.spec import BEHAVIOUR
from geomfast.runs.errors import PlanError
from geomfast.runs.settings_file import plain
from geomfast.testbed.models.scales import Scale
from geomfast.testbed.tasks import LENGTH_TASKS
from geomfast.testbed.tasks.lengths import (
    LengthTask,
    check_lengths,
    diagnostic_examples,
    training_lengths,
)
from geomfast.testbed.training.schedule import checkpoint_steps
from geomfast.testbed.training.settings import TrainSettings

#: From scales that hardly learn to ones that mostly do; width and depth grow in turn.
LADDER = ("1x8", "1x16", "2x16", "2x32", "3x32", "3x64", "4x64")
#: Lengths trained on, and tested on besides these, where none are given; by task.
TRAIN_LENGTHS = {"count": 12, "reverse-add": 5}
TEST_LENGTHS = {"count": (16, 24), "reverse-add": (7, 10)}
#: Width of an attention head; a model that is narrower has one head.
_HEAD = 16
#: Peak learning rate of a width of 32; a wider model takes smaller steps.
_RATE = 3e-3

#: What members are measured by beside their behaviour, where nothing else is asked for.
MEASURES = ("rankme",)


@dataclass(frozen=True)
class PopulationSettings:
    """Settings that all members share; see ``geomfast population --help`` for each."""

    task: str
    train_length: int
    test_lengths: tuple[int, ...]
    steps: int
    batch_size: int
    learning_rate: float | None
    samples: int
    checkpoints: int
    measures: tuple[str, ...] = MEASURES

    @property
    def taken(self) -> tuple[str, ...]:
        """All that every checkpoint is measured by."""
        return (BEHAVIOUR, *self.measures)

    @property
    def length_task(self) -> LengthTask:
        """The task itself."""
        return LENGTH_TASKS[self.task]

    @property
    def longest(self) -> int:
        """Length that vocabulary and positions suffice for."""
        return max(self.lengths)

    @property
    def lengths(self) -> tuple[int, ...]:
        """All lengths that members are tested on, ascending: the longest trained on, and longer."""
        return tuple(sorted({self.train_length, *self.test_lengths}))


def check(settings: PopulationSettings) -> None:
    """Refuse settings that no member can be trained with.

    Raises:
        PlanError: says which, and what is possible.
    """
    shown = needing(settings.measures, Need.ACTIVATIONS)
    if others := [name for name in settings.measures if name not in shown]:
        there = ", ".join(needing(measures(), Need.ACTIVATIONS))
        raise PlanError(
            f"--measures {others[0]}: members go through a pass together, in which only "
            f"activations are measured; there are: {there}"
        )
    try:
        check_lengths(settings.length_task, settings.train_length, settings.test_lengths)
        training_lengths(settings.batch_size, settings.train_length)
    except ValueError as error:
        raise PlanError(str(error)) from error


def scale_of(settings: PopulationSettings, name: str) -> Scale:
    """The scale that a name such as ``2x32`` means: layers and width.

    Raises:
        PlanError: it means none.
    """
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", name)
    if found is None:
        raise PlanError(f"{name!r} is no scale: LAYERSxWIDTH, for instance 2x32")
    layers, width = int(found[1]), int(found[2])
    heads = max(1, width // _HEAD)
    if width > _HEAD and width % _HEAD:
        raise PlanError(f"scale {name}: a width above {_HEAD} must be a multiple of {_HEAD}")
    task, longest = settings.length_task, settings.longest
    rate = settings.learning_rate or _RATE * min(1.0, (32 / width) ** 0.5)
    return Scale(name, layers, width, heads, rate, task.vocabulary(longest), task.context(longest))


def train_settings(settings: PopulationSettings) -> TrainSettings:
    """The part of a population's settings that training needs."""
    warmup = min(100, max(1, settings.steps // 10))
    return TrainSettings(settings.steps, settings.batch_size, settings.learning_rate, warmup=warmup)


def recipe(settings: PopulationSettings, name: str) -> dict[str, Any]:
    """Architecture and training of a scale, with defaults, so that a changed default shows."""
    scale = scale_of(settings, name)
    whole = {**asdict(scale), **asdict(train_settings(settings)), "parameters": scale.parameters}
    return plain(whole | {"learning_rate": scale.learning_rate})


def schedule(settings: PopulationSettings) -> list[int]:
    """The steps at which every member is measured."""
    dense = min(4, settings.steps)
    return checkpoint_steps(
        settings.steps, dense_until=dense, dense_every=dense, count=settings.checkpoints
    )


def run_name(settings: PopulationSettings, scale: str, seed: int) -> str:
    """A member's name in the records."""
    return f"{settings.task}-{scale}-seed{seed}"


def measure_settings(settings: PopulationSettings, measure: str) -> dict[str, Any]:
    """The settings stored, hashed, with every value of a measure."""
    found = {"measure": measure, "samples": settings.samples}
    if measure == BEHAVIOUR:
        return found | {"decoding": "teacher-forced argmax", "loss": "nats per answer token"}
    return plain(found | {"position": "first_answer"} | spec_of(measure).defaults)


def diagnostic_settings(settings: PopulationSettings, length: int) -> tuple[str, dict[str, Any]]:
    """Hash and description of the fixed samples of a length."""
    drawn = diagnostic_examples(settings.length_task, length, settings.samples, settings.longest)
    content = drawn.tokens.tobytes() + drawn.starts.tobytes()
    description = {
        "task": settings.length_task.name,
        "level": length,
        "stream": "diagnostic",
        "samples": settings.samples,
        "longest": settings.longest,
    }
    return hashlib.sha256(content).hexdigest()[:16], description
