"""Settings of a population from bases. Does not import torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from geomfast.measures import spec_of
from geomfast.measures.spec import BEHAVIOUR
from geomfast.population.plan import check_measures
from geomfast.runs.errors import PlanError
from geomfast.runs.settings_file import plain
from geomfast.testbed.training.schedule import checkpoint_steps
from geomfast.testbed.training.settings import TrainSettings

#: Which parameters are trained, and what that means.
TRAINED = {
    "reinitialised": "only the re-initialised parts; the rest is run once for all seeds",
    "all": "every parameter, members one after the other",
}
#: Peak learning rate by what is trained, where none is given.
LEARNING_RATES = {"reinitialised": 1e-3, "all": 1e-4}
#: Names of parts that every model has.
LAST_BLOCK, HEAD = "last-block", "head"
#: Record of minus the log-probability of the right choice among the choices.
CHOICE_NATS = "choice_nats"

#: How a program trains its members.
STACKED_HEAD, STACKED_TAIL, IN_TURN = "stacked head", "stacked tail", "one after the other"


@dataclass(frozen=True)
class BaseSettings:
    """Settings that all members share; see ``geomfast population --help`` for each.

    Attributes:
        reinit: what is re-initialised: names and patterns, as asked for.
        trained: one of :data:`TRAINED`.
        task: name in the records.
        train, test: hashes of the examples in the two files.
        steps, batch_size, checkpoints: of training.
        learning_rate: at its peak.
        weight_decay: of matrices.
        samples: test examples at most; None for all.
        precision: of the products of a training step; other than fp32 only with ``all``.
        accumulation: parts that a batch is gone through in, one after the other.
        measures: beside behaviour.
    """

    reinit: tuple[str, ...]
    trained: str
    task: str
    train: str
    test: str
    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    samples: int | None
    checkpoints: int
    precision: str = "fp32"
    accumulation: int = 1
    measures: tuple[str, ...] = ("rankme",)

    @property
    def taken(self) -> tuple[str, ...]:
        """All that every checkpoint is measured by."""
        return (BEHAVIOUR, *self.measures)


@dataclass(frozen=True)
class Base:
    """A base as a population's scale: what was found out about it when the population was planned.

    Attributes:
        name: of the scale: the last part of the folder or of the name on the hub.
        source: folder, or name on the hub.
        revision: on the hub; None for a folder or the hub's main one.
        weights: hash of its weights.
        parameters: of the model, those it is compared with other bases by.
        trained: how many of them a member has of its own.
        decayed: how many of these, the first ones, decay: those of matrices.
        parts: parameters that are re-initialised.
        untied: whether the head was tied to the embedding, and has a matrix of its own now.
        with_embedding: whether it is re-initialised with an embedding that it is tied to.
        way: how members are trained: :data:`STACKED_HEAD`, :data:`STACKED_TAIL`, or
            :data:`IN_TURN`.
        reason: why they are not stacked; empty where they are, or were not asked to be.
        answers_only: whether the last block of a stacked tail is computed at the positions that
            predict answers alone.
        layers, width, vocabulary: of the model.
        tail: blocks that are run anew at every step.
        longest: tokens of the longest example; ``answer``: of the longest answer.
        examples: that are trained on, and tested on.
        skipped: examples of the two files that are longer than the context.
        alike: test examples in which two choices have the same tokens.
        rows: of training examples, and those that choices are scored on; ``tokens``: of them all.
        data: hash of the test examples' token ids.
        chance: accuracy of blind guesses at these.
    """

    name: str
    source: str
    revision: str | None
    weights: str
    parameters: int
    trained: int
    decayed: int
    parts: tuple[str, ...]
    untied: bool
    with_embedding: bool
    way: str
    reason: str
    answers_only: bool
    layers: int
    width: int
    vocabulary: int
    tail: int
    longest: int
    answer: int
    examples: tuple[int, int]
    skipped: tuple[int, int]
    alike: int
    rows: tuple[int, int]
    tokens: tuple[int, int]
    data: str
    chance: float


def check(settings: BaseSettings) -> None:
    """Refuse settings that no member can be trained with.

    Raises:
        PlanError: says which, and what is possible.
    """
    check_measures(settings.measures)
    if settings.trained != "all":
        for name, usual in (("precision", "fp32"), ("accumulation", 1)):
            if (value := getattr(settings, name)) != usual:
                raise PlanError(f"--{name} {value} needs --trained all")
    if settings.accumulation > settings.batch_size:
        raise PlanError(
            f"--accumulation {settings.accumulation} is more than the {settings.batch_size} "
            "examples of a batch"
        )


def train_settings(settings: BaseSettings) -> TrainSettings:
    """The part of the settings that training needs."""
    warmup = min(100, max(1, settings.steps // 10))
    return TrainSettings(
        settings.steps,
        settings.batch_size,
        settings.learning_rate,
        warmup=warmup,
        weight_decay=settings.weight_decay,
        precision=settings.precision,
    )


def recipe(settings: BaseSettings, base: Base) -> dict[str, Any]:
    """A base and its training, with defaults, so that a changed default shows.

    The folder is not among it: a base that was moved is the same one. Nor is the reason why members
    are not stacked, which may hold a number that differs between machines.
    """
    told = asdict(base)
    del told["source"], told["name"], told["reason"]
    how = asdict(train_settings(settings))
    return plain({"base": base.name, **told, **how, "dropout": "off"})


def schedule(settings: BaseSettings) -> list[int]:
    """The steps at which every member is measured."""
    dense = min(4, settings.steps)
    return checkpoint_steps(
        settings.steps, dense_until=dense, dense_every=dense, count=settings.checkpoints
    )


def run_name(settings: BaseSettings, scale: str, seed: int) -> str:
    """A member's name in the records."""
    return f"{settings.task}-{scale}-seed{seed}"


def measure_settings(settings: BaseSettings, measure: str) -> dict[str, Any]:
    """The settings stored, hashed, with every value of a measure."""
    members = {"trained": settings.trained, "reinit": list(settings.reinit)}
    found = {"measure": measure, "samples": settings.samples, **members}
    if measure == BEHAVIOUR:
        return plain(
            found
            | {
                "decoding": "choice of the largest summed log-likelihood, of equals the first",
                "loss": "nats per answer token",
                "choice_loss": "minus the log of the right choice's probability among the choices",
            }
        )
    return plain(found | {"position": "first_answer"} | spec_of(measure).defaults)
