"""Diagnostic samples that measures are computed on, and their names in the records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from geomfast.estimators.behaviour import AnswersFrom, PaddedAnswers
from geomfast.records import MIXTURE
from geomfast.sweep.plan import RunSpec, Settings, diagnostic_settings, mixture_settings
from geomfast.testbed.tasks import DIAGNOSTIC_STREAM, TaskLevel
from geomfast.testbed.tasks.vocabulary import PAD
from geomfast.testbed.training.mixture import IGNORE

Row = dict[str, Any]


@dataclass(frozen=True)
class LevelSamples:
    """The fixed diagnostic samples of one task-level.

    Attributes:
        level: the task-level.
        tokens: (N, L) ids of whole examples, on the device.
        answer_start: index of the first answer token.
        inputs: (N,) number of each sample's input, on the CPU; easy tasks have fewer than N.
        data: hash of the samples.
    """

    level: TaskLevel
    tokens: Tensor
    answer_start: int
    inputs: Tensor
    data: str

    @property
    def batch(self) -> Tensor:
        """The batch for :meth:`loss`."""
        return self.tokens

    @property
    def named(self) -> Row:
        """Columns of a record that identify the samples."""
        return {
            "task": self.level.task,
            "level": self.level.level,
            "n": self.tokens.shape[0],
            "data": self.data,
        }

    @property
    def loss(self) -> AnswersFrom:
        """The training loss of every sample: (model, batch) -> (N,)."""
        return AnswersFrom(self.answer_start)


@dataclass(frozen=True)
class MixtureSamples:
    """The diagnostic samples of all task-levels of a run as one batch, padded to one length.

    There are equally many of each, so that the mean over samples is that over task-levels.

    Attributes:
        batch: ``inputs`` and ``targets`` (N, T), as in training.
        data: hash of the samples.
    """

    batch: dict[str, Tensor]
    data: str

    @property
    def named(self) -> Row:
        """Columns of a record that identify the samples."""
        task, level = MIXTURE
        samples = self.batch["inputs"].shape[0]
        return {"task": task, "level": level, "n": samples, "data": self.data}

    @property
    def loss(self) -> PaddedAnswers:
        """The training loss of every sample: (model, batch) -> (N,)."""
        return PaddedAnswers()


def level_samples(spec: RunSpec, settings: Settings, device: torch.device) -> list[LevelSamples]:
    """The diagnostic samples of every task-level of a run."""
    made = []
    for level in spec.task_levels:
        drawn = level.examples(DIAGNOSTIC_STREAM, 0, settings.samples)
        tokens = torch.from_numpy(drawn.tokens)
        _, inputs = tokens[:, : drawn.answer_start].unique(dim=0, return_inverse=True)
        data, _ = diagnostic_settings(settings, level)
        made.append(LevelSamples(level, tokens.to(device), drawn.answer_start, inputs, data))
    return made


def mixture(samples: list[LevelSamples]) -> MixtureSamples:
    """The samples of several task-levels as one batch."""
    width = max(probe.tokens.shape[1] for probe in samples) - 1
    inputs, targets = [], []
    for probe in samples:
        right = probe.tokens[:, 1:].clone()
        right[:, : probe.answer_start - 1] = IGNORE
        pad = (0, width - right.shape[1])
        inputs.append(F.pad(probe.tokens[:, :-1], pad, value=PAD))
        targets.append(F.pad(right, pad, value=IGNORE))
    data, _ = mixture_settings([probe.data for probe in samples])
    return MixtureSamples({"inputs": torch.cat(inputs), "targets": torch.cat(targets)}, data)
