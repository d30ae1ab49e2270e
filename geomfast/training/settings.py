"""What shapes a training run besides scale, seed and data. No torch here: planning needs it too."""

from __future__ import annotations

from dataclasses import dataclass

from geomfast.models.scales import SCALES


@dataclass(frozen=True)
class TrainSettings:
    """Everything that shapes a run besides scale, seed and data.

    Attributes:
        steps: optimiser steps.
        batch_size: examples per step, over all task-levels together.
        learning_rate: peak rate; None takes the scale's own.
        warmup: steps of linear warm-up.
        final_rate: fraction of the peak left at the end of the cosine.
        betas: AdamW's.
        weight_decay: on matrices; biases and LayerNorm gains are left alone.
        clip: largest gradient norm.
        precision: ``fp32`` or ``bf16`` (autocast; weights and optimiser stay fp32).
    """

    steps: int
    batch_size: int = 128
    learning_rate: float | None = None
    warmup: int = 100
    final_rate: float = 0.1
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.01
    clip: float = 1.0
    precision: str = "fp32"


def peak_rate(settings: TrainSettings, scale: str) -> float:
    """The peak learning rate a scale is trained with."""
    return settings.learning_rate or SCALES[scale].learning_rate
