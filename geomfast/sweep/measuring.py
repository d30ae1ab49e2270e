"""All measures of one checkpoint of a sweep, through the engine that every measure goes through."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from geomfast.estimators.activations import observe
from geomfast.estimators.behaviour import mean_and_stderr
from geomfast.files import fingerprint
from geomfast.labels import layers
from geomfast.measures import engine
from geomfast.measures.catalog import spec_of
from geomfast.measures.spec import BEHAVIOUR, OF_ANSWERS
from geomfast.measures.subject import Policy, Samples, Seen, Subject, Value
from geomfast.sweep.eigenvectors import Eigenvectors, of_measure
from geomfast.sweep.plan import Settings, measure_settings, settings_of
from geomfast.sweep.retained import OfLevel
from geomfast.sweep.samples import LevelSamples, MixtureSamples, Row, mixture
from geomfast.testbed.models.gpt import GPT


class Run(Subject):
    """A model of a sweep, and the diagnostic samples of its task-levels.

    Args:
        model: as it is.
        probes: of every task-level.
        position: of the activations, see :func:`geomfast.estimators.activations.observe`.
        learning_rate: of the next step, where it is known.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        probes: list[LevelSamples],
        position: str,
        learning_rate: float | None = None,
    ):
        self.model, self.position, self.learning_rate = model, position, learning_rate
        self._probes = probes
        self.sets = [
            Samples(one.named, one.loss, one.batch, one.tokens[:, one.answer_start], one.inputs)
            for one in probes
        ]

    @property
    def sampled(self) -> Sequence[Samples]:
        """Chains run on the mixture, too."""
        both: MixtureSamples = mixture(self._probes)
        return [*self.sets, Samples(both.named, both.loss, both.batch)]

    def observe(self) -> list[Seen]:
        """Activations, exact match and log-probability of the answers."""
        return [self._observe(probe) for probe in self._probes]

    def _observe(self, probe: LevelSamples) -> Seen:
        seen = observe(self.model, probe.tokens, probe.answer_start, position=self.position)
        behaviour = []
        for name, values in (("accuracy", seen.exact), ("answer_logprob", seen.logprob)):
            value, stderr = mean_and_stderr(values)
            behaviour.append(Value(name, [value], [stderr]))
        labels = layers(seen.activations.shape[0])
        states = [(labels, seen.activations[None])]
        # Embedding and output share one matrix.
        classifier = self.model.tokens.weight.detach() if isinstance(self.model, GPT) else None
        return Seen(states, behaviour, seen.first, classifier)


class _Earlier:
    """What earlier checkpoints have left, by the number of a task-level."""

    def __init__(self, eigenvectors: Eigenvectors, probes: list[LevelSamples]):
        self._eigenvectors, self._names = eigenvectors, [probe.level.name for probe in probes]

    def start(self, number: int, of: str = "") -> Tensor | None:
        return self._eigenvectors.before.get(of_measure(self._names[number], of))

    def keep(self, number: int, vectors: Tensor, of: str = "") -> None:
        self._eigenvectors.keep(of_measure(self._names[number], of), vectors)

    def earlier(self, measure: str, number: int) -> OfLevel:
        return self._eigenvectors.retained.of(measure, self._names[number])


def measure(
    model: torch.nn.Module,
    samples: list[LevelSamples],
    measures: set[str],
    settings: Settings,
    eigenvectors: Eigenvectors | None = None,
    learning_rate: float | None = None,
) -> list[Row]:
    """Take the named measures of a model; the caller adds what names the checkpoint.

    Args:
        model: the model as it is.
        samples: of every task-level.
        measures: names from the catalogue, and behaviour.
        settings: the sweep's.
        eigenvectors: what an earlier checkpoint's Hessians had; gets this one's. None to start
            searches at random, and keep nothing.
        learning_rate: of the next step, where it is known.

    Returns:
        One row per value, with task, level, layer, measure, value, stderr, n, settings, data,
        backend, device and seconds (see :func:`geomfast.measures.engine.measure`).

    Raises:
        ValueError: an unknown measure, linear probes of activations that are not those before the
            answer, and what measures refuse.
    """
    wanted = {name: settings_of(settings, name) for name in measures - {BEHAVIOUR}}
    for name in wanted:
        if spec_of(name).need in OF_ANSWERS and settings.position != "first_answer":
            raise ValueError(
                f"{name} needs activations of the position before the answer, not "
                f"position = {settings.position!r}: they would hold the answer as input"
            )
    named = {name: fingerprint(measure_settings(settings, name)) for name in measures}
    device = str(samples[0].tokens.device)
    rows = engine.measure(
        Run(model, samples, settings.position, learning_rate),
        wanted,
        Policy(check=False),  # the model is ours and its samples do not meet, which is tested
        _Earlier(eigenvectors, samples) if eigenvectors else None,
        behaviour=BEHAVIOUR in measures,
    )
    return [_row(made, named, device) for made in rows]


#: What the engine says beside the columns of records.
_UNRECORDED = ("member", "of", "verdict")


def _row(made: Row, named: dict[str, str], device: str) -> Row:
    rest = {name: value for name, value in made.items() if name not in _UNRECORDED}
    return rest | {"settings": named[made["of"]], "device": device}
