"""Measures how fast this machine is at the parts of a sweep, in a fraction of a second."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from geomfast.estimators.probes import probe_accuracy
from geomfast.estimators.spectra import rankme
from geomfast.measures import spec_of
from geomfast.runs.stopwatch import seconds_of
from geomfast.sweep.plan import Settings
from geomfast.testbed.models.gpt import Block, Shapes
from geomfast.testbed.models.scales import Scale
from geomfast.testbed.tasks import TaskLevel
from geomfast.testbed.training.mixture import Mixture
from geomfast.testbed.training.precision import tf32

# Work of one timed pass on the CPU, where it is the same rate for fewer tokens.
_CPU_FLOPS = 1.5e9
#: Multiply-adds of a block's matrices per token, in squared widths.
BLOCK = 12
_ELEMENTS = 1 << 22
_LENGTH = 12  # of an average example
_STEPS = 64  # for which examples are drawn together


@dataclass(frozen=True)
class Pace:
    """Seconds that the parts of a run take on one device.

    Attributes:
        block: of a forward and backward pass through one block, whatever the tokens.
        token: of the same, for each token beyond that, in float32.
        train_token: the same for a token of a training batch, everything counted.
        draw: of making a training batch.
        element: of reading and writing one number in a long vector.
        spectrum: of RankMe of one layer of one task-level.
        probe: of the linear probes of one layer of one task-level.
        eigenvalues: of a Gram matrix of the samples.
    """

    block: float
    token: float
    train_token: float
    draw: float
    element: float
    spectrum: float
    probe: float
    eigenvalues: float


def measure_pace(scale: Scale, settings: Settings, levels: list[TaskLevel], device: str) -> Pace:
    """Time a scale's block, and measures of one layer, as a sweep with these settings has them.

    Args:
        scale: of which width.
        settings: batch size, samples and precision are taken from them.
        levels: of the mixture that batches are drawn from.
        device: where.
    """
    on = torch.device(device)
    mixture = Mixture(levels, settings.batch_size, 0)
    begin = time.perf_counter()
    batches = [mixture.batch(step) for step in range(_STEPS)]
    draw = (time.perf_counter() - begin) / _STEPS
    shapes = [(b.inputs.shape[0], b.inputs.shape[1]) for b in batches[0].buckets]
    if on.type == "cpu":
        shapes = _fewer(shapes, scale)
    tokens = sum(n * t for n, t in shapes)
    block = Block(scale.d_model, scale.heads).to(on)
    width = scale.d_model
    rows = tokens // _LENGTH + 1
    fixed = seconds_of(lambda: _pass(block, width, [(1, _LENGTH)], on, "fp32"), on)
    whole = seconds_of(lambda: _pass(block, width, [(rows, _LENGTH)], on, "fp32"), on)
    train = seconds_of(lambda: _pass(block, width, shapes, on, settings.precision), on)
    samples = settings.samples
    layers = scale.layers + 1 if on.type == "cuda" else 3
    x = torch.randn(
        layers, samples, width, generator=torch.Generator().manual_seed(0), device="cpu"
    ).to(on)
    labels = torch.arange(samples, device="cpu") % 10
    gram = (x[0] @ x[0].mT).double()
    probing = spec_of("probe_accuracy").defaults
    long = torch.ones(_ELEMENTS, device=on)
    return Pace(
        block=fixed,
        token=max(whole - fixed, 0.0) / (rows * _LENGTH),
        train_token=train / tokens,
        draw=draw,
        element=seconds_of(lambda: long.mul_(1.0), on) / _ELEMENTS,
        spectrum=seconds_of(lambda: rankme(x), on) / len(x),
        probe=seconds_of(lambda: probe_accuracy(x, labels, **probing), on) / len(x),
        eigenvalues=seconds_of(lambda: torch.linalg.eigvalsh(gram), on),
    )


def _pass(block: Block, width: int, shapes: Shapes, on: torch.device, precision: str) -> None:
    x = torch.ones(sum(n * t for n, t in shapes), width, device=on, requires_grad=True)
    with tf32(precision == "tf32"):
        with torch.autocast(on.type, torch.bfloat16, enabled=precision == "bf16"):
            y = block(x, shapes)
        torch.autograd.grad(y.sum(), [x, *block.parameters()])


def _fewer(shapes: Shapes, scale: Scale) -> Shapes:
    """Shapes of the same lengths with fewer rows, so that a pass takes a fraction of a second."""
    tokens = sum(n * t for n, t in shapes)
    work = 6 * BLOCK * scale.d_model**2 * tokens
    return [(max(1, round(n * min(1.0, _CPU_FLOPS / work))), t) for n, t in shapes]
