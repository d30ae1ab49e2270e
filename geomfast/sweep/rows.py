"""What measures are taken of, and what they are recorded as."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from geomfast.measures.behaviour import answer_loss
from geomfast.sweep.plan import Cell, Settings, diagnostic_settings
from geomfast.tasks import DIAGNOSTIC_STREAM, TaskLevel

Row = dict[str, Any]


@dataclass(frozen=True)
class Probe:
    """The fixed diagnostic samples of one task-level, on the device."""

    level: TaskLevel
    tokens: Tensor
    answer_start: int
    data: str

    def loss(self, model: torch.nn.Module, tokens: Tensor) -> Tensor:
        """What training minimises, of every sample: (N,)."""
        return answer_loss(model, tokens, self.answer_start)


def probes(cell: Cell, settings: Settings, device: torch.device) -> list[Probe]:
    """The diagnostic samples of every task-level of a cell."""
    made = []
    for level in cell.task_levels:
        drawn = level.examples(DIAGNOSTIC_STREAM, 0, settings.samples)
        tokens = torch.from_numpy(drawn.tokens).to(device)
        data, _ = diagnostic_settings(settings, level)
        made.append(Probe(level, tokens, drawn.answer_start, data))
    return made


def row(
    probe: Probe,
    layer: str,
    name: str,
    value: float,
    stderr: float,
    settings: str,
    backend: str,
    seconds: float,
) -> Row:
    """One value; the caller adds what names the checkpoint and the device."""
    return {
        "task": probe.level.task,
        "level": probe.level.level,
        "layer": layer,
        "measure": name,
        "value": value,
        "stderr": stderr,
        "n": probe.tokens.shape[0],
        "settings": settings,
        "data": probe.data,
        "backend": backend,
        "seconds": seconds,
    }
