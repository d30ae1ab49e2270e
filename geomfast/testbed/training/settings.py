"""Settings of training besides scale, seed and data. Needs no torch, for planning."""

from __future__ import annotations

from dataclasses import dataclass

from geomfast.testbed.models.scales import SCALES

#: Precision of a training step's matrix products, and what it is.
PRECISIONS = {
    "fp32": "float32 throughout",
    "tf32": "products rounded to TF32's 10 bits (CUDA devices only)",
    "bf16": "bfloat16 by autocast",
}


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
        precision: of the matrix products, one of :data:`PRECISIONS`; weights, optimiser and all
            that is measured stay fp32.
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


def check_precision(precision: str, device: str) -> None:
    """Refuse what a device cannot do, instead of doing another thing under its name.

    Args:
        precision: one of :data:`PRECISIONS`.
        device: its type, such as ``cpu`` or ``cuda``.

    Raises:
        ValueError: there is no such precision, or not on this device.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r}: there are {', '.join(PRECISIONS)}")
    if precision == "tf32" and device != "cuda":
        raise ValueError(f"precision 'tf32' needs a CUDA device, not {device}: use fp32 or bf16")
