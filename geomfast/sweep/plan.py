"""Plan of a sweep: its runs, their shared settings, and the settings of each measure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from geomfast.estimators.sampling.rules import STABLE, usual_nbeta
from geomfast.files import fingerprint
from geomfast.measures.catalog import spec_of
from geomfast.measures.spec import BEHAVIOUR, OF_ACTIVATIONS, OF_ANSWERS, Need, of_gradients
from geomfast.records import MIXTURE
from geomfast.runs.errors import PlanError
from geomfast.runs.settings_file import plain
from geomfast.testbed.hyperparameters import USUAL, Hyperparameters
from geomfast.testbed.models.scales import Scale, scale_facts, scale_for
from geomfast.testbed.tasks import DIAGNOSTIC_STREAM, TaskLevel, task_levels
from geomfast.testbed.training.schedule import learning_rate
from geomfast.testbed.training.settings import TrainSettings, peak_rate

MIXTURES = ("joint", "per-task")
KEEP = ("last", "all")

#: Names in :class:`Settings` of those settings of a measure that can be changed.
ASKED = {
    "llc": {name: f"llc_{name}" for name in ("lr", "localization", "chains", "draws")},
    "hessian_trace": {"probes": "trace_probes"},
    "hessian_density": {"probes": "density_probes", "iterations": "density_iterations"},
}
#: Settings that affect one measure, and those that share its computation, and may change while
#: none of them is recorded.
MEASURE_SETTINGS = {measure: tuple(names.values()) for measure, names in ASKED.items()}
_LLC = spec_of("llc").settings()


@dataclass(frozen=True)
class Settings:
    """Settings that all runs of a sweep share; see ``geomfast sweep --help`` for each."""

    mixture: str
    tasks: tuple[str, ...]
    levels: tuple[int, ...]
    steps: int
    batch_size: int
    learning_rate: float | None
    precision: str
    dense_until: int
    dense_every: int
    checkpoints: int
    samples: int
    position: str = "first_answer"
    center: bool = False
    eps: float = 0.0
    llc_lr: float | str = _LLC.lr
    llc_localization: float | str = _LLC.localization
    llc_chains: int = _LLC.chains
    llc_draws: int = _LLC.draws
    trace_probes: int | None = None
    density_probes: int | None = None
    density_iterations: int | None = None
    #: Difficulty levels measured; None for all that are trained on.
    measured_levels: tuple[int, ...] | None = None


@dataclass(frozen=True)
class RunSpec:
    """One training run: a scale, a seed, what it is trained on, and what its sweep varies."""

    scale: str
    seed: int
    tasks: tuple[str, ...]
    levels: tuple[int, ...]
    run: str
    varied: Hyperparameters = USUAL
    measured_levels: tuple[int, ...] | None = None

    @property
    def model(self) -> Scale:
        """The model's scale, with embeddings for the tokens of its tasks."""
        return scale_for(self.scale, self.tasks)

    @property
    def trained(self) -> list[TaskLevel]:
        """The task-levels trained on."""
        return task_levels(self.tasks, self.levels)

    @property
    def task_levels(self) -> list[TaskLevel]:
        """The task-levels measured."""
        return task_levels(self.tasks, self.measured_levels or self.levels)


def run_specs(
    settings: Settings,
    scales: Sequence[str],
    seeds: Sequence[int],
    learning_rates: Sequence[float | None] = (None,),
    warmups: Sequence[int | None] = (None,),
) -> list[RunSpec]:
    """The runs of a grid, in the order they are started.

    Args:
        settings: the sweep's.
        scales, seeds: of the grid.
        learning_rates: peaks of the schedule; None for the one of the settings or of the scale.
        warmups: steps of warm-up; None for the usual number.
    """
    mixtures: list[tuple[str, tuple[str, ...]]] = [("joint", settings.tasks)]
    if settings.mixture == "per-task":
        mixtures = [(task.lower(), (task,)) for task in settings.tasks]
    varied = [Hyperparameters(rate, warmup) for rate in learning_rates for warmup in warmups]
    return [
        RunSpec(scale, seed, tasks, settings.levels, name, one, settings.measured_levels)
        for scale in scales
        for one in varied
        for seed in seeds
        for mixture, tasks in mixtures
        if (name := "-".join(filter(None, (mixture, scale, one.label, f"seed{seed}"))))
    ]


def settings_of(settings: Settings, measure: str) -> Any:
    """The settings of a measure, as an instance of its settings class.

    nbeta of the LLC is n / log n of a task-level's n samples for the mixture too: at one
    temperature the coefficients are comparable, and one lr fits all.

    Raises:
        UnknownMeasure: there is no such measure.
        PlanError: no chain could be stable.
    """
    spec = spec_of(measure)
    fields = ASKED.get(measure) or ASKED.get(spec_of(measure).shares, {})
    asked = {name: getattr(settings, field) for name, field in fields.items()}
    if measure == "rankme":
        asked = {"center": settings.center, "eps": settings.eps}
    own = spec.asked(**{name: value for name, value in asked.items() if value is not None})
    if spec.need is not Need.CHAINS:
        return own
    lr, most = own.lr, own.localization
    # Neither is known before there is a model where it is a word.
    if not isinstance(lr, str) and not isinstance(most, str) and lr * most >= STABLE:
        raise PlanError(
            f"llc_lr = {lr:g} is too large: with llc_localization = {most:g} "
            f"chains are stable only below {STABLE / most:g}"
        )
    size = settings.samples if own.batch_size is None else min(own.batch_size, settings.samples)
    return replace(own, batch_size=size, nbeta=usual_nbeta(settings.samples))


def measure_settings(settings: Settings, measure: str) -> dict[str, Any]:
    """The settings stored, hashed, with every value of a measure.

    Raises:
        UnknownMeasure: there is no such measure.
        PlanError: as :func:`settings_of`.
    """
    told: dict[str, Any] = {"measure": measure, "samples": settings.samples}
    if measure == BEHAVIOUR:
        return told | {"decoding": "teacher-forced argmax"}
    need, own = spec_of(measure).need, asdict(settings_of(settings, measure))
    if need in OF_ACTIVATIONS:
        return plain(told | {"position": settings.position, **own})
    if need in OF_ANSWERS:
        what = {"label": "first answer token"}
        what |= {"held out": "by input"} if need is Need.ANSWERS else {}
        return plain(told | {"position": "first_answer"} | what | own)
    # Every checkpoint is measured with the same random numbers; format 1 does not tell which.
    own.pop("seed", None)
    if need is Need.GRADIENTS:
        own = of_gradients(own)
    return plain(told | {"loss": "nats per answer token, mean"} | own)


def diagnostic_settings(settings: Settings, level: TaskLevel) -> tuple[str, dict[str, Any]]:
    """Hash and description of a task-level's fixed diagnostic samples."""
    tokens = level.examples(DIAGNOSTIC_STREAM, 0, settings.samples).tokens
    description = {
        "task": level.task,
        "level": level.level,
        "stream": DIAGNOSTIC_STREAM,
        "samples": settings.samples,
    }
    return hashlib.sha256(tokens.tobytes()).hexdigest()[:16], description


def mixture_settings(data: list[str]) -> tuple[str, dict[str, Any]]:
    """Hash and description of the diagnostic samples of several task-levels together.

    Args:
        data: the task-levels' own hashes.
    """
    task, level = MIXTURE
    description = {"task": task, "level": level, "data": data}
    return fingerprint(description), description


def train_settings(settings: Settings, varied: Hyperparameters = USUAL) -> TrainSettings:
    """The part of a sweep's settings that training needs, for runs with these hyperparameters."""
    asked = {name: value for name, value in asdict(varied).items() if value is not None}
    usual = {"learning_rate": settings.learning_rate, "precision": settings.precision}
    return TrainSettings(settings.steps, settings.batch_size, **{**usual, **asked})


def rate_at(step: int, settings: Settings, spec: RunSpec) -> float:
    """Learning rate of the update that follows a step of a run."""
    training = train_settings(settings, spec.varied)
    return learning_rate(
        step,
        peak=peak_rate(training, spec.scale),
        steps=training.steps,
        warmup=training.warmup,
        final=training.final_rate,
    )


def recipe(
    settings: Settings,
    scale: str,
    tasks: tuple[str, ...] | None = None,
    varied: Hyperparameters = USUAL,
) -> dict[str, Any]:
    """Architecture and training of a scale, with defaults, so that a changed default shows.

    Args:
        settings: the sweep's.
        scale: name of the scale.
        tasks: that a run is trained on; None for all of the sweep's.
        varied: hyperparameters of the run.
    """
    training = train_settings(settings, varied)
    recipe = {**scale_facts(scale_for(scale, tasks or settings.tasks)), **asdict(training)}
    return plain(recipe | {"learning_rate": peak_rate(training, scale)})


def run_identity(settings: Settings, spec: RunSpec) -> dict[str, Any]:
    """Identity of a run's computation: its recipe, its seed and its tasks."""
    spec_fields = plain(asdict(spec))
    # Its recipe says both of the first; what is measured changes no weight.
    for field in ("scale", "varied", "measured_levels"):
        del spec_fields[field]
    return spec_fields | recipe(settings, spec.scale, spec.tasks, spec.varied)
