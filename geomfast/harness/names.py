"""Run, scale, seed and step of a results file: from its model, or from its name by a pattern."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from geomfast.harness.results import Results
from geomfast.runs.errors import PlanError
from geomfast.series.checkpoint import step_of, tells_a_fraction
from geomfast.series.patterns import compiled

_LARGEST = 2**63 - 1
_FIELDS = ("scale", "seed", "step")


class Checkpoint(NamedTuple):
    """The checkpoint that a results file is of.

    Attributes:
        run: name of the training.
        scale, seed: of it.
        step: of its weights.
        model: the name of the model.
    """

    run: str
    scale: str
    seed: int
    step: int
    model: str


class Unnamed(ValueError):
    """A file that does not tell its checkpoint, or tells two."""


@dataclass(frozen=True)
class Naming:
    """How a results file tells its checkpoint.

    Attributes:
        models: pattern of models' names with ``{scale}`` and perhaps ``{seed}``; None for the name
            itself as the scale.
        files: pattern of the ends of files' paths with any of ``{scale}``, ``{seed}``, ``{step}``;
            None where the model and its revision tell all.
        runs: name of a run, with ``{scale}`` and ``{seed}``; None for the model's name.

    Raises:
        PlanError: a pattern has other fields, or one of them twice.
    """

    models: str | None = None
    files: str | None = None
    runs: str | None = None

    def __post_init__(self) -> None:
        _, _ = self._models, self._files
        if self.runs is not None:
            fields = re.findall(r"\{(.*?)\}", self.runs)
            other = re.sub(r"\{(.*?)\}", "", self.runs)
            if not {"scale"} <= set(fields) <= {"scale", "seed"} or set(other) & set("{}"):
                raise PlanError(f"--runs {self.runs!r}: {{scale}}, and perhaps {{seed}}")

    @property
    def _models(self) -> re.Pattern[str] | None:
        if self.models is None:
            return None
        return compiled(self.models, "--names", ("scale",), ("seed",))

    @property
    def _files(self) -> re.Pattern[str] | None:
        if self.files is None:
            return None
        found = compiled(self.files, "--files", (), _FIELDS)
        if not found.groupindex:
            raise PlanError(f"--files {self.files!r}: none of {{scale}}, {{seed}} and {{step}}")
        return re.compile(rf"(?:.*/)?{found.pattern}")

    def of(self, results: Results) -> Checkpoint:
        """The checkpoint of a file.

        Raises:
            Unnamed: it tells no step, contradicts itself, or its names are not like the patterns.
        """
        model, step = _model_and_step(results)
        fields: dict[str, str] = {}
        if (pattern := self._models) is not None:
            found = pattern.fullmatch(model)
            if found is None:
                raise Unnamed(f"its model {model} is not named like {self.models}")
            fields |= {k: v for k, v in found.groupdict().items() if v is not None}
        if (pattern := self._files) is not None:
            found = pattern.fullmatch(results.name)
            if found is None:
                raise Unnamed(f"it is not named like {self.files}")
            for name, value in found.groupdict().items():
                if name in fields and fields[name] != value:
                    raise Unnamed(f"its model tells {name} {fields[name]}, and its name {value}")
                fields[name] = value
        if "step" in fields:
            if step is not None and step != int(fields["step"]):
                raise Unnamed(f"its model is of step {step}, and its name tells {fields['step']}")
            step = int(fields["step"])
        if step is None:
            raise Unnamed(
                f"neither revision {results.revision or 'main'} nor model {model} tells a step: "
                "say with --files how the file's name does"
            )
        seed = int(fields.get("seed", 0))
        if max(step, seed) > _LARGEST:
            raise Unnamed("its step or seed has more than 63 bits")
        scale = fields.get("scale", model)
        run = model if self.runs is None else self.runs.format(scale=scale, seed=seed)
        return Checkpoint(run, scale, seed, step, model)


def _model_and_step(results: Results) -> tuple[str, int | None]:
    """Name of the model, and the step that its revision, adapter or folder tells."""
    parts = _parts(results.model)
    name = parts[-1] if parts else results.model
    for told in (results.revision, *_parts(results.adapter)[-1:], *parts[1:][-1:]):
        if tells_a_fraction(told):
            raise Unnamed(f"{told} tells a step that is not whole")
    if adapter := _parts(results.adapter):
        # Weights of their own, whatever checkpoint they are put on.
        step = step_of(adapter[-1])
        if step is None:
            return adapter[-1], None
        return (adapter[-2] if len(adapter) > 1 else f"{name}-adapter"), step
    of_folder = step_of(name) if len(parts) > 1 else None
    step = step_of(results.revision)
    if of_folder is None:
        return name, step
    if step not in (None, of_folder):
        raise Unnamed(f"its revision tells step {step}, and its folder {of_folder}")
    return parts[-2], of_folder


def owner_of(results: Results) -> str:
    """Whose model it is on a hub, as in *owner/name*; empty where that does not tell."""
    parts = results.model.split("/")
    hub = len(parts) == 2 and all(parts) and not results.model.startswith((".", "~"))
    return parts[0] if hub and not results.adapter and step_of(parts[1]) is None else ""


def _parts(path: str) -> list[str]:
    return [part for part in re.split(r"[/\\]+", path) if part]
