"""Which runs a sweep consists of, what they all share, and how each measure is taken."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from geomfast.estimators.sampling.rules import STABLE, steepest, usual_nbeta
from geomfast.files import fingerprint
from geomfast.models.scales import SCALES
from geomfast.records import MIXTURE
from geomfast.tasks import DIAGNOSTIC_STREAM, TaskLevel, task_levels
from geomfast.training.settings import TrainSettings, peak_rate

MIXTURES = ("joint", "per-task")
KEEP = ("last", "all")

#: Measures a sweep can take besides behaviour, which every checkpoint has.
MEASURES = {
    "rankme": "effective dimension of every layer's activations (RankMe)",
    "probe_accuracy": "held-out accuracy of reading the answer off every layer (linear probes)",
    "fisher_rank": "effective rank of the empirical Fisher matrix, over all parameters",
    "gradient_covariance_rank": "the same of the gradient covariance",
    "hessian_top": "largest eigenvalue of the Hessian, with its residual and products",
    "hessian_trace": "trace of the Hessian, with its standard error",
    "hessian_density": "quantiles of the Hessian's eigenvalues",
    "llc": "local learning coefficient of every task-level and of the mixture",
}
#: Measures of the Hessian, and how each is computed where :class:`Settings` does not say otherwise.
HESSIAN: dict[str, dict[str, Any]] = {
    "hessian_top": {"k": 1, "tol": 1e-3, "max_iterations": 100},
    "hessian_trace": {"probes": 30},
    "hessian_density": {"probes": 4, "iterations": 40},
}
#: How linear probes are fitted; see :func:`geomfast.probe_accuracy`.
PROBE = {"folds": 5, "penalties": (1.0, 1e-1, 1e-2, 1e-3, 1e-4), "seed": 0}
#: How the local learning coefficient is sampled, beside what :class:`Settings` says of it.
LLC = {"burn_in": 50, "batch_size": 32}
#: Settings that shape one measure only, and may differ where it was not taken.
MEASURE_SETTINGS = {
    "llc": ("llc_lr", "llc_localization", "llc_chains", "llc_draws"),
    "hessian_trace": ("trace_probes",),
    "hessian_density": ("density_probes", "density_iterations"),
}
#: The paper computed gradient ranks from this many parameters; recorded beside the exact values.
FIRST_ENTRIES = 50_000
BEHAVIOUR = "behaviour"


class PlanError(Exception):
    """A sweep that cannot start as asked; the message says what to change."""


@dataclass(frozen=True)
class Settings:
    """What every run of a sweep shares; see ``geomfast sweep --help`` for each."""

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
    llc_lr: float = 2e-5
    llc_localization: float = 3000.0
    llc_chains: int = 2
    llc_draws: int = 200
    trace_probes: int | None = None
    density_probes: int | None = None
    density_iterations: int | None = None


@dataclass(frozen=True)
class Cell:
    """One training run: a scale, a seed and what it is trained on."""

    scale: str
    seed: int
    tasks: tuple[str, ...]
    levels: tuple[int, ...]
    run: str

    @property
    def task_levels(self) -> list[TaskLevel]:
        """The task-levels trained on and measured."""
        return task_levels(self.tasks, self.levels)


def cells(settings: Settings, scales: tuple[str, ...], seeds: tuple[int, ...]) -> list[Cell]:
    """The runs of a grid, in the order they are started."""
    mixtures: list[tuple[str, tuple[str, ...]]] = [("joint", settings.tasks)]
    if settings.mixture == "per-task":
        mixtures = [(task.lower(), (task,)) for task in settings.tasks]
    return [
        Cell(scale, seed, tasks, settings.levels, f"{name}-{scale}-seed{seed}")
        for scale in scales
        for seed in seeds
        for name, tasks in mixtures
    ]


def measure_of(name: str) -> str:
    """The measure a record belongs to by its name: llc for llc_rhat, behaviour for accuracy."""
    for measure in MEASURES:
        if name == measure or name.startswith(f"{measure}_"):
            return measure
    return BEHAVIOUR


def measure_settings(settings: Settings, measure: str) -> dict[str, Any]:
    """The settings stored, hashed, with every value of a measure."""
    if measure == "rankme":
        keys = ("samples", "position", "center", "eps")
        return {"measure": measure, **{key: getattr(settings, key) for key in keys}}
    if measure == "probe_accuracy":
        of = {"samples": settings.samples, "position": "first_answer"}
        what = {"label": "first answer token", "held out": "by input", **PROBE}
        return plain({"measure": measure, **of, **what})
    if measure not in MEASURES:
        decoding = "teacher-forced argmax"
        return {"measure": measure, "samples": settings.samples, "decoding": decoding}
    if measure in HESSIAN:
        options = hessian_options(settings, measure)
    elif measure == "llc":
        options = llc_options(settings)
    else:
        options = {"labels": "data", "first entries": FIRST_ENTRIES}
    loss = "nats per answer token, mean"
    return {"measure": measure, "samples": settings.samples, "loss": loss, **options}


def hessian_options(settings: Settings, measure: str) -> dict[str, Any]:
    """How a measure of the Hessian is called, the same at every checkpoint."""
    asked = {
        name.partition("_")[2]: getattr(settings, name)
        for name in MEASURE_SETTINGS.get(measure, ())
    }
    return HESSIAN[measure] | {key: value for key, value in asked.items() if value is not None}


def llc_options(settings: Settings) -> dict[str, Any]:
    """How :func:`geomfast.llc` is called, the same at every checkpoint.

    nbeta is n / log n of a task-level's n samples for the mixture too: at one temperature the
    coefficients are comparable, and one lr fits all.

    Raises:
        PlanError: no chain could be stable.
    """
    most = steepest(settings.llc_localization)
    if settings.llc_lr * most >= STABLE:
        raise PlanError(
            f"llc_lr = {settings.llc_lr:g} is too large: with llc_localization = {most:g} "
            f"chains are stable only below {STABLE / most:g}"
        )
    return {
        **LLC,
        "batch_size": min(LLC["batch_size"], settings.samples),
        "nbeta": usual_nbeta(settings.samples),
        **{key.removeprefix("llc_"): getattr(settings, key) for key in MEASURE_SETTINGS["llc"]},
    }


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


def train_settings(settings: Settings) -> TrainSettings:
    """The part of a sweep's settings that training needs."""
    return TrainSettings(
        settings.steps, settings.batch_size, settings.learning_rate, precision=settings.precision
    )


def recipe(settings: Settings, scale: str) -> dict[str, Any]:
    """How a scale is built and trained, defaults included, so that a later default shows."""
    training = train_settings(settings)
    recipe = {**asdict(SCALES[scale]), **asdict(training)}
    return plain(recipe | {"learning_rate": peak_rate(training, scale)})


def run_identity(settings: Settings, cell: Cell) -> dict[str, Any]:
    """What names a run's computation: its recipe, its seed and what it is trained on."""
    cell_fields = plain(asdict(cell))
    del cell_fields["scale"]
    return cell_fields | recipe(settings, cell.scale)


def plain(value: Any) -> Any:
    """A value as it comes back from a JSON file."""
    return json.loads(json.dumps(value))
